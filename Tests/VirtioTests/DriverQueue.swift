import PCI
import Synchronization
import Virtio

/// One descriptor, as a driver writes it.
struct Descriptor {
    var address: UInt64
    var byteCount: UInt32
    var flags: UInt16 = 0
    var next: UInt16 = 0

    static let next: UInt16 = 1
    static let write: UInt16 = 2
    static let indirect: UInt16 = 4
}

/// A queue on the driver's side, in guest memory.
///
///     +0x0000 descriptors    +0x8000 available    +0x9000 used
final class DriverQueue<Device: VirtioDevice> {
    unowned let driver: VirtioDriver<Device>
    let number: Int
    let size: Int
    let features: VirtioFeatures
    let descriptors, available, used: UInt64
    /// Memory for buffers and tables.
    let data: UInt64
    /// The index that was written last, and the used index up to which entries were looked at.
    var availableIndex: UInt16 = 0
    var usedIndex: UInt16 = 0

    init(_ driver: VirtioDriver<Device>, number: Int, size: Int, features: VirtioFeatures) {
        self.driver = driver
        self.number = number
        self.size = size
        self.features = features
        let start = driver.base + UInt64(number) * 0x20000
        (descriptors, available, used) = (start, start + 0x8000, start + 0x9000)
        data = start + 0x10000
        driver[start, 0x10000] = [UInt8](repeating: 0, count: 0x10000)
    }

    func enable() {
        driver.setQueue(number, .queueSize, UInt64(size))
        driver.setQueue(number, .queueDescriptors, descriptors)
        driver.setQueue(number, .queueDriver, available)
        driver.setQueue(number, .queueDevice, used)
        driver.setQueue(number, .queueEnable, 1)
    }

    /// Writes a descriptor of the queue's table, or of one elsewhere.
    func set(_ index: Int, _ descriptor: Descriptor, table: UInt64? = nil) {
        let place = (table ?? descriptors) + UInt64(index * 16)
        driver.store(descriptor.address, at: place, 8)
        driver.store(UInt64(descriptor.byteCount), at: place + 8, 4)
        driver.store(UInt64(descriptor.flags), at: place + 12, 2)
        driver.store(UInt64(descriptor.next), at: place + 14, 2)
    }

    /// Writes descriptors from `first` on, each leading to the next.
    func setChain(_ chain: [Descriptor], from first: Int = 0, table: UInt64? = nil) {
        for (place, descriptor) in chain.enumerated() {
            var descriptor = descriptor
            if place + 1 < chain.count {
                descriptor.flags |= Descriptor.next
                descriptor.next = UInt16(first + place + 1)
            }
            set(first + place, descriptor, table: table)
        }
    }

    /// Makes chains available by their first descriptors; the index comes last, after everything else.
    func offer(_ heads: [Int]) {
        for head in heads {
            driver.store(UInt64(head), at: available + 4 + UInt64(Int(availableIndex) % size * 2), 2)
            availableIndex &+= 1
        }
        setAvailableIndex(availableIndex)
    }

    func setAvailableIndex(_ index: UInt16) {
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        driver.store(UInt64(index), at: available + 2, 2)
        atomicMemoryFence(ordering: .sequentiallyConsistent)
    }

    func kick() { driver.kick(number) }

    var seenUsedIndex: UInt16 { UInt16(driver.load(used + 2, 2)) }

    /// Waits for the next used entry.
    func nextUsed() -> (head: Int, byteCount: Int) {
        driver.wait { seenUsedIndex != usedIndex }
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        let place = used + 4 + UInt64(Int(usedIndex) % size * 8)
        usedIndex &+= 1
        return (Int(driver.load(place, 4)), Int(driver.load(place + 4, 4)))
    }

    /// Has the device echo `bytes` through descriptors 0 and 1; what came back.
    func echo(_ bytes: [UInt8], room: Int? = nil) -> [UInt8] {
        let room = room ?? bytes.count
        driver[data, bytes.count] = bytes
        driver[data + 0x8000, room] = [UInt8](repeating: 0xee, count: room)
        setChain([
            Descriptor(address: data, byteCount: UInt32(bytes.count)),
            Descriptor(address: data + 0x8000, byteCount: UInt32(room), flags: Descriptor.write),
        ])
        offer([0])
        kick()
        let entry = nextUsed()
        return driver[data + 0x8000, entry.byteCount]
    }

    var availableFlags: UInt64 {
        get { driver.load(available, 2) }
        set { driver.store(newValue, at: available, 2) }
    }

    /// From which used entry on the driver wants to be interrupted.
    var usedEvent: UInt16 {
        get { UInt16(driver.load(available + 4 + UInt64(size * 2), 2)) }
        set { driver.store(UInt64(newValue), at: available + 4 + UInt64(size * 2), 2) }
    }

    var usedFlags: UInt64 { driver.load(used, 2) }

    /// From which available entry on the device wants to be told.
    var availableEvent: UInt16 { UInt16(driver.load(used + 4 + UInt64(size * 8), 2)) }
}
