import DMA
import LinuxHost

/// An address space with eight mapped pages, that gives up soon.
final class World: Sendable {
    let space: IOAddressSpace
    let backing: MappingBacking

    init() throws {
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = 2
        configuration.unmapWait = .zero
        space = IOAddressSpace(configuration)
        let object = try MemoryObject.anonymous(byteCount: Int(16 * page))
        backing = .file(object, offset: 8 * page)
        for index in 0..<8 { try space.map(object, pages: pages(UInt64(index))) }
    }
}

/// A device in small, whose places are fixed: made at line 10, its callback takes its lock at line 20 and pins are made
/// under it, or not, at lines 15 and 16. It lets go of everything whenever it is told.
final class Disk: Sendable {
    let lock = Monitor<[PinnedBox]>([], as: LockClass("the disk's lock"))
    let access: DMAAccess

    /// - Parameter also: what the callback does besides, without the lock.
    init(callbackIsReentrant: Bool = true, also: @escaping @Sendable (Disk, IOVARange) -> Void = { _, _ in }) {
        let (lock, own) = (lock, Own())
        access = DMAAccess(
            needsPin: true, callbackIsReentrant: callbackIsReentrant, file: "Disk.swift", line: 10
        ) { range in
            let boxes = lock.withLock(file: "Disk.swift", line: 20) { boxes in
                defer { boxes = [] }
                return boxes
            }
            for box in boxes { box.unpin() }
            if let disk = own.disk { also(disk, range) }
        }
        own.disk = self
    }

    private final class Own: @unchecked Sendable {  // written once, before the access is attached
        weak var disk: Disk?
    }

    func pin(_ range: IOVARange) throws(DMAError) {
        try lock.withLock(file: "Disk.swift", line: 14) { (boxes) throws(DMAError) in
            boxes.append(PinnedBox(try access.pin(range, rights: .read, file: "Disk.swift", line: 15)))
        }
    }

    /// Pins without the lock; the record is the caller's to make.
    func pinUnrecorded(_ range: IOVARange) throws(DMAError) -> PinnedBox {
        PinnedBox(try access.pin(range, rights: .read, file: "Disk.swift", line: 16))
    }
}

/// Runs `body` to its end on a thread of its own.
func onThread(_ name: String, _ body: @escaping @Sendable () -> Void) throws {
    try OSThread(name: name, body).join()
}

extension LockChecker.Report {
    /// Whether the text names all the places.
    func names(_ places: String...) -> Bool { places.allSatisfy { text.contains($0) } }
}
