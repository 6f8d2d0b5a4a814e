import DMA
import PCI
import Synchronization

/// A queue as its device sees it: buffers that the driver has made available, to be completed in any order. Virtio 1.2, 2.7
///
///     available  … │ taken, perhaps completed │ seen │ not looked at yet
///                  ▲                          ▲      ▲
///          published used index          nextAvailable
///
/// Used by the worker only. Whatever the driver writes is read once and then checked; after the first error the queue does
/// nothing more, and every call throws that error again. A queue that a reset has made void gives nothing and takes nothing.
public struct Virtqueue {
    /// How many descriptors an indirect table may have. Drivers make tables longer than a small queue has entries.
    public static let maximumTableCount = 1024

    /// How many entries the driver has given the queue.
    public let size: Int
    let number: Int
    private let epoch: Int
    private let transport: VirtioTransport
    private let layout: QueueLayout
    private let features: VirtioFeatures
    let memory: QueueMemory
    /// What is wrong with it.
    private(set) var failure: VirtqueueError?
    /// The available index up to which entries have been handed out.
    private var nextAvailable: UInt16 = 0
    /// The used index as the driver knows it.
    private var publishedUsed: UInt16 = 0
    /// Entries of the available ring that were read and not handed out; those before `cachePosition` were.
    private var cache: [UInt16]
    private var cachePosition = 0
    private var cacheCount = 0
    /// By descriptor: whether the device has a buffer that begins with it.
    private var isInUse: [Bool]
    /// Used entries that the driver has not been shown, as they lie in memory.
    private var completed: [UInt64] = []
    /// The words of the indirect table that is being read.
    private var table: [UInt64] = []
    /// From which available entry on the driver was asked to tell of new ones; `nil` for from none.
    private var notificationsFrom: UInt16?

    init(
        _ setup: QueueSetup, number: Int, epoch: Int, features: VirtioFeatures, memory: GuestMemory,
        of transport: VirtioTransport
    ) throws(VirtqueueError) {
        size = setup.size
        layout = try QueueLayout(setup)
        self.number = number
        self.epoch = epoch
        self.features = features
        self.memory = QueueMemory(guest: memory)
        self.transport = transport
        cache = [UInt16](repeating: 0, count: size)
        isInUse = [Bool](repeating: false, count: size)
        completed.reserveCapacity(size)
    }

    /// Whether the work that the queue belongs to is still wanted.
    private var isVoid: Bool { !transport.isCurrent(epoch) }
}

/// Buffers from the driver.
extension Virtqueue {
    /// The next buffer that the driver has made available, now the device's until it completes it; `nil` when there is none.
    /// The driver then tells of the next one.
    public mutating func next() throws(VirtqueueError) -> VirtqueueBuffer? {
        try guarded { (queue) throws(VirtqueueError) in try queue.take() }
    }

    /// Gives back the buffer that was taken last, as if it had not been taken.
    ///
    /// - Precondition: no other was taken since, and it was not completed.
    public mutating func putBack(_ buffer: VirtqueueBuffer) {
        guard failure == nil else { return }
        precondition(
            cachePosition > 0 && UInt16(littleEndian: cache[cachePosition - 1]) == buffer.head
                && isInUse[Int(buffer.head)],
            "only the buffer that was taken last can be put back")
        isInUse[Int(buffer.head)] = false
        cachePosition -= 1
        nextAvailable &-= 1
    }

    private mutating func guarded<Result>(
        _ body: (inout Virtqueue) throws(VirtqueueError) -> Result
    ) throws(VirtqueueError) -> Result {
        if let failure { throw failure }
        do throws(VirtqueueError) {
            return try body(&self)
        } catch {
            failure = error
            throw error
        }
    }

    private mutating func take() throws(VirtqueueError) -> VirtqueueBuffer? {
        // Also of what was read before: a reset waits for as long as buffers come.
        guard !isVoid else { return nil }
        if cachePosition == cacheCount {
            if try !look() {
                guard try askForNotification(), try look() else { return nil }
            }
            try suppressNotification()
        }
        let head = UInt16(littleEndian: cache[cachePosition])
        let buffer = try chain(from: head)
        isInUse[Int(head)] = true
        cachePosition += 1
        nextAvailable &+= 1
        return buffer
    }

    /// Reads the available index and every entry that it says is new. Whether there is one.
    private mutating func look() throws(VirtqueueError) -> Bool {
        let index = try memory.load(at: layout.availableIndex)
        let count = Int(index &- nextAvailable)
        guard count > 0 else { return false }
        // What the driver has not seen used, it cannot have made available again.
        let taken = Int(nextAvailable &- publishedUsed)
        guard count <= size - taken else { throw .availableIndexTooFar(index) }
        let start = Int(nextAvailable) & (size - 1)
        let first = min(count, size - start)
        try memory.read(first, at: layout.availableEntry(start), into: &cache, from: 0)
        if first < count { try memory.read(count - first, at: layout.availableEntry(0), into: &cache, from: first) }
        cachePosition = 0
        cacheCount = count
        return true
    }

    /// Has the driver tell of the next entry. Whether that is news to it, so that one may have come before it knew.
    private mutating func askForNotification() throws(VirtqueueError) -> Bool {
        guard notificationsFrom != nextAvailable else { return false }
        if features.contains(.eventIndex) {
            try memory.store(nextAvailable, at: layout.availableEvent)
        } else {
            let wasAsked = notificationsFrom != nil
            notificationsFrom = nextAvailable
            if wasAsked { return false }
            try memory.store(0, at: layout.usedFlags)
        }
        notificationsFrom = nextAvailable
        // The driver writes its index and then looks at this; we write this and then look at its index.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        return true
    }

    /// Spares the driver from telling of what will be seen anyway. With an event index it is spared already.
    private mutating func suppressNotification() throws(VirtqueueError) {
        guard notificationsFrom != nil else { return }
        notificationsFrom = nil
        if !features.contains(.eventIndex) { try memory.store(SplitRing.noNotification, at: layout.usedFlags) }
    }
}

/// Chains of descriptors.
extension Virtqueue {
    /// The buffer that a chain of descriptors makes.
    private mutating func chain(from head: UInt16) throws(VirtqueueError) -> VirtqueueBuffer {
        guard Int(head) < size else { throw .noSuchDescriptor(head) }
        guard !isInUse[Int(head)] else { throw .descriptorInUse(head) }
        var buffer = VirtqueueBuffer(head: head)
        var index = head
        for _ in 0..<size {
            let descriptor = try memory.descriptor(at: layout.descriptor(Int(index)))
            if descriptor.flags.contains(.indirect) {
                guard features.contains(.indirectDescriptors), !descriptor.flags.contains(.next) else {
                    throw .misplacedIndirectTable
                }
                try addTable(descriptor, to: &buffer)
                return try checked(buffer)
            }
            try Self.add(descriptor, to: &buffer)
            guard descriptor.flags.contains(.next) else { return try checked(buffer) }
            index = descriptor.next
            guard Int(index) < size else { throw .noSuchDescriptor(index) }
        }
        throw .endlessChain
    }

    /// Adds what the table names that a descriptor names. Whether the device would write that descriptor's memory is of no
    /// meaning. Virtio 1.2, 2.7.5.3.2
    private mutating func addTable(
        _ descriptor: VirtqueueDescriptor, to buffer: inout VirtqueueBuffer
    ) throws(VirtqueueError) {
        let (count, rest) = Int(descriptor.byteCount).quotientAndRemainder(dividingBy: SplitRing.descriptorByteCount)
        guard rest == 0, (1...Self.maximumTableCount).contains(count) else {
            throw .indirectTableSize(descriptor.byteCount)
        }
        // The longest table so far stays allocated.
        while table.count < count * 2 { table.append(0) }
        try memory.read(count * 2, at: IOVA(descriptor.address), into: &table, from: 0)
        var index = 0
        for _ in 0..<count {
            let entry = VirtqueueDescriptor(
                UInt64(littleEndian: table[index * 2]), UInt64(littleEndian: table[index * 2 + 1]))
            guard !entry.flags.contains(.indirect) else { throw .misplacedIndirectTable }
            try Self.add(entry, to: &buffer)
            guard entry.flags.contains(.next) else { return }
            index = Int(entry.next)
            guard index < count else { throw .noSuchDescriptor(entry.next) }
        }
        throw .endlessChain
    }

    private static func add(
        _ descriptor: VirtqueueDescriptor, to buffer: inout VirtqueueBuffer
    ) throws(VirtqueueError) {
        let isWritable = descriptor.flags.contains(.write)
        guard descriptor.byteCount > 0 else { throw .emptyDescriptor }
        guard isWritable || buffer.writableByteCount == 0 else { throw .readableAfterWritable }
        let total = buffer.readableByteCount + buffer.writableByteCount + Int(descriptor.byteCount)
        guard total <= UInt32.max else { throw .bufferTooLarge }
        let (last, overflow) = descriptor.address.addingReportingOverflow(UInt64(descriptor.byteCount) - 1)
        guard !overflow else { throw .addressOverflow }
        buffer.append(IOVARange(first: IOVA(descriptor.address), last: IOVA(last)), isWritable: isWritable)
    }

    /// Refuses a buffer that the device would write into while it reads it. What is read twice, or written twice, is the
    /// driver's affair: a program in the guest may well name a page twice in one request.
    private func checked(_ buffer: VirtqueueBuffer) throws(VirtqueueError) -> VirtqueueBuffer {
        guard let read = buffer.bounds(of: buffer.readable), let written = buffer.bounds(of: buffer.writable),
            read.first <= written.last, written.first <= read.last
        else { return buffer }
        for one in buffer.readable {
            let range = buffer.segment(one)
            for other in buffer.writable {
                let other = buffer.segment(other)
                guard other.last < range.first || range.last < other.first else { throw .readableOverlapsWritable }
            }
        }
        return buffer
    }
}

/// Bytes of buffers.
extension Virtqueue {
    /// Copies readable bytes of a buffer, from `offset` on, until `bytes` is full.
    ///
    /// - Precondition: the buffer has so many.
    public mutating func read(
        _ buffer: VirtqueueBuffer, at offset: Int = 0, into bytes: inout MutableSpan<UInt8>
    ) throws(VirtqueueError) {
        precondition(
            offset >= 0 && bytes.count <= buffer.readableByteCount - offset, "a device reads what its buffer has")
        if let failure { throw failure }
        do throws(VirtqueueError) {
            var done = 0
            var start = offset
            for number in buffer.readable where done < bytes.count {
                guard let part = buffer.part(of: number, skipping: &start, atMost: bytes.count - done) else { continue }
                try memory.read(part, into: &bytes, from: done)
                done += Int(part.byteCountOfSegment)
            }
        } catch {
            failure = error
            throw error
        }
    }

    /// Copies bytes to the writable part of a buffer, from `offset` on.
    ///
    /// - Precondition: there is room for all of them.
    public mutating func write(
        _ bytes: Span<UInt8>, to buffer: VirtqueueBuffer, at offset: Int = 0
    ) throws(VirtqueueError) {
        precondition(
            offset >= 0 && bytes.count <= buffer.writableByteCount - offset,
            "a device writes what its buffer has room for")
        if let failure { throw failure }
        do throws(VirtqueueError) {
            var done = 0
            var start = offset
            for number in buffer.writable where done < bytes.count {
                guard let part = buffer.part(of: number, skipping: &start, atMost: bytes.count - done) else { continue }
                let count = Int(part.byteCountOfSegment)
                try memory.write(bytes.extracting(done..<done + count), to: part.first)
                done += count
            }
        } catch {
            failure = error
            throw error
        }
    }
}

/// Used buffers.
extension Virtqueue {
    /// Ends the device's work on a buffer. The driver does not see it before `publish`.
    ///
    /// - Parameter writtenByteCount: how many bytes from the start of the writable part on the device has written.
    /// - Precondition: the device has the buffer, which has so many writable bytes.
    public mutating func complete(_ buffer: VirtqueueBuffer, writtenByteCount: Int) {
        guard failure == nil else { return }
        precondition(isInUse[Int(buffer.head)], "a buffer is completed once")
        precondition(
            (0...buffer.writableByteCount).contains(writtenByteCount), "a device writes what its buffer has room for")
        isInUse[Int(buffer.head)] = false
        completed.append((UInt64(buffer.head) | UInt64(writtenByteCount) << 32).littleEndian)
    }

    /// Shows the driver everything that was completed, all at once, and interrupts it if it wants to be.
    public mutating func publish() throws(VirtqueueError) {
        if let failure { throw failure }
        guard !completed.isEmpty, !isVoid else { return }
        try guarded { (queue) throws(VirtqueueError) in try queue.showCompleted() }
    }

    private mutating func showCompleted() throws(VirtqueueError) {
        let start = Int(publishedUsed) & (size - 1)
        let first = min(completed.count, size - start)
        try memory.write(completed, 0..<first, to: layout.usedEntry(start))
        if first < completed.count { try memory.write(completed, first..<completed.count, to: layout.usedEntry(0)) }
        let old = publishedUsed
        publishedUsed &+= UInt16(completed.count)
        completed.removeAll(keepingCapacity: true)
        try memory.store(publishedUsed, at: layout.usedIndex)
        // The driver says what it wants and then looks at the index; we write the index and then look at what it wants.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        let wantsInterrupt =
            if features.contains(.eventIndex) {
                SplitRing.passes(event: try memory.load(at: layout.usedEvent), from: old, to: publishedUsed)
            } else {
                try memory.load(at: layout.availableFlags) & SplitRing.noInterrupt == 0
            }
        if wantsInterrupt { transport.interrupt(queue: number, epoch) }
    }
}
