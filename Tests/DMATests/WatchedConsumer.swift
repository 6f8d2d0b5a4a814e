import DMA

/// A consumer that does what a test wants when it is told of mappings.
final class WatchedConsumer: MappingConsumer {
    let aperture = IOVARange.everything
    let granule: UInt64 = 1
    private let onMap: Shared<@Sendable (IOVARange) -> Void>
    private let onUnmap: @Sendable (IOVARange) -> Void

    init(map: @escaping @Sendable (IOVARange) -> Void, unmap: @escaping @Sendable (IOVARange) -> Void) {
        onMap = Shared(map)
        onUnmap = unmap
    }

    func whenMapping(_ body: @escaping @Sendable (IOVARange) -> Void) { onMap.update { $0 = body } }

    func map(_ range: IOVARange, _ backing: MappingBacking, rights: AccessRights) { onMap.value(range) }

    func unmap(_ range: IOVARange) { onUnmap(range) }
}
