import DMA
import SVA
import Testing

@Suite struct `The example in the documentation` {
    private func example(
        _ pager: any Pager, _ range: IOVARange, _ buffer: UnsafeMutableRawBufferPointer
    ) throws {
        let pasids = PASIDSpace()
        let queue = try FaultQueue()
        let device = SVADevice(in: pasids, faultQueue: queue)
        try device.start()

        let context = AddressSpaceContext(IOAddressSpace(), pager: pager, in: pasids)
        let handle = try device.bind(context)
        unsafe try device.read(range, pasid: handle.pasid, into: buffer)

        try handle.unbind()
        device.remove()
        queue.stop()
    }

    @Test func `builds and runs`() throws {
        let object = try MemoryObject.anonymous(byteCount: Int(page))
        unsafe object.bytes.storeBytes(of: 7, as: UInt8.self)
        var bytes = [UInt8](repeating: 0, count: 4)
        try unsafe bytes.withUnsafeMutableBytes { buffer in
            unsafe try example(ObjectPager(object), IOVARange(first: IOVA(0), last: IOVA(3)), buffer)
        }
        #expect(bytes == [7, 0, 0, 0])
    }
}
