import LinuxHost
public import VFIOUserWire

/// Memory for the device to reach.
extension Client {
    /// How a server gets at memory.
    public enum Sharing: Hashable, Sendable {
        /// By a descriptor that it maps.
        case descriptor
        /// By asking this client, which serves it while it waits for anything.
        case messages
    }

    /// Lets the device reach `byteCount` bytes of `memory` from `offset` on, at an address. `VFIO_USER_DMA_MAP`
    ///
    /// The memory is kept until it is unmapped when messages reach it.
    ///
    /// - Precondition: the memory has the bytes.
    public func map(
        _ memory: SharedMemory, offset: Int = 0, byteCount: Int, at address: UInt64,
        rights: MapDMA.Flags = [.read, .write], sharing: Sharing = .descriptor
    ) throws(ClientError) {
        precondition(
            offset >= 0 && byteCount > 0 && byteCount <= memory.byteCount - offset, "a mapping outside of its memory")
        let addresses = try Client.range(at: address, byteCount: UInt64(byteCount))
        let size = UInt64(byteCount)
        switch sharing {
        case .descriptor:
            let request = MapDMA(flags: rights, fileOffset: UInt64(offset), address: address, size: size)
            _ = try perform(.mapDMA(request), descriptors: [memory.descriptor.rawValue])
        case .messages:
            let mapping = MessageMemory.Mapping(
                addresses: addresses, memory: memory, offset: offset, rights: rights)
            // The server may use it as soon as it has agreed, and what it asks for then can come along with its reply.
            let isFree = !conversation.memory.overlaps(addresses)
            if isFree { conversation.memory.insert(mapping) }
            do throws(ClientError) {
                _ = try perform(.mapDMA(MapDMA(flags: rights, fileOffset: 0, address: address, size: size)))
            } catch {
                if isFree { conversation.memory.remove(addresses) }
                throw error
            }
            if !isFree { conversation.memory.insert(mapping) }
        }
    }

    /// Takes the memory in a range away from the device, which may be any number of mappings or none. When it returns,
    /// the device reaches it no more. `VFIO_USER_DMA_UNMAP`
    public func unmap(at address: UInt64, byteCount: UInt64) throws(ClientError) {
        let addresses = try Client.range(at: address, byteCount: byteCount)
        _ = try perform(.unmapDMA(UnmapDMA(scope: .addresses(addresses))))
        conversation.memory.remove(addresses)
    }

    /// Takes all memory away from the device.
    public func unmapEverything() throws(ClientError) {
        _ = try perform(.unmapDMA(UnmapDMA(scope: .everything)))
        conversation.memory.remove(0...UInt64.max)
    }

    /// - Throws: `EINVAL`, as the server would, for a range that is empty or passes the top of the address space.
    private static func range(at address: UInt64, byteCount: UInt64) throws(ClientError) -> ClosedRange<UInt64> {
        guard byteCount > 0, !address.addingReportingOverflow(byteCount - 1).overflow else {
            throw .system(.invalidArgument)
        }
        return address...address + (byteCount - 1)
    }
}
