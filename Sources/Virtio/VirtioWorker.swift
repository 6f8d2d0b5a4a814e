import LinuxHost
import PCI

/// What the worker does next.
enum VirtioTask {
    case reset(VirtioReset)
    case start(VirtioFeatures)
    case resetQueue(Int, epoch: Int)
    case process(Int, QueueSetup, VirtioFeatures, GuestMemory, epoch: Int)
}

extension VirtioState {
    func hasTask(isBusMaster: Bool) -> Bool {
        work.isEnding || work.reset != nil || work.isStarting || queues.contains { $0.isResetting }
            || nextQueue(isBusMaster: isBusMaster) != nil
    }

    /// Takes the next task; `nil` when there is none.
    mutating func takeTask(isBusMaster: Bool) -> VirtioTask? {
        if let reset = work.reset {
            work.reset = nil
            work.isResetting = true
            work.isStarted = false
            return .reset(reset)
        }
        if work.isStarting {
            work.isStarting = false
            work.isStarted = true
            return .start(features)
        }
        if let number = queues.firstIndex(where: { $0.isResetting }) { return .resetQueue(number, epoch: work.epoch) }
        guard let number = nextQueue(isBusMaster: isBusMaster) else { return nil }
        work.kicked &= ~(1 << UInt64(number))
        work.lastQueue = number
        // Without a client there is nobody to serve.
        return registers.memory.map { .process(number, queues[number].setup, features, $0, epoch: work.epoch) }
    }

    /// The queue whose turn it is. Those that are looked at while the device may not access memory wait.
    private func nextQueue(isBusMaster: Bool) -> Int? {
        guard work.kicked != 0, isBusMaster, isLive else { return nil }
        let count = queues.count
        return (1...count).lazy.map { (work.lastQueue + $0) % count }
            .first { work.kicked >> UInt64($0) & 1 != 0 && queues[$0].isEnabled }
    }
}

/// The thread on which the device works.
struct VirtioWorker<Device: VirtioDevice> {
    let transport: VirtioTransport
    let device: Device
    let lingering: Duration

    func run() {
        var lingering = Lingering(time: lingering)
        var queues = [Virtqueue?](repeating: nil, count: transport.state.withLock { $0.queues.count })
        while let task = nextTask() {
            switch task {
            case .reset(let kind):
                forget(&queues)
                device.reset(kind)
                transport.state.update { $0.work.isResetting = false }
            case .start(let features):
                forget(&queues)
                device.start(features: features)
            case .resetQueue(let number, let epoch):
                queues[number] = nil
                device.resetQueue(number)
                transport.state.update { if $0.work.epoch == epoch { $0.finishReset(ofQueue: number) } }
            case .process(let number, let setup, let features, let memory, let epoch):
                process(&queues[number], number, setup, features, memory, epoch)
                lingering.wait { transport.state.withLock { $0.hasTask(isBusMaster: transport.port.isBusMaster) } }
            }
        }
    }

    private func forget(_ queues: inout [Virtqueue?]) {
        for number in queues.indices { queues[number] = nil }
    }

    private func nextTask() -> VirtioTask? {
        transport.state.wait { state -> VirtioTask?? in
            state.work.isWaiting = false
            if state.work.isEnding { return .some(nil) }
            if let task = state.takeTask(isBusMaster: transport.port.isBusMaster) { return task }
            state.work.isWaiting = true
            return nil
        }
    }

    private func process(
        _ slot: inout Virtqueue?, _ number: Int, _ setup: QueueSetup, _ features: VirtioFeatures,
        _ memory: GuestMemory, _ epoch: Int
    ) {
        do throws(VirtqueueError) {
            var queue: Virtqueue
            if let known = slot.take() {
                queue = known
            } else {
                queue = try Virtqueue(
                    setup, number: number, epoch: epoch, features: features, memory: memory, of: transport)
            }
            defer { slot = queue }
            try device.process(&queue, number: number)
            try queue.publish()
        } catch {
            transport.fail(number, error, memory, epoch)
        }
    }
}

/// Staying awake for a while, on a machine that may have others to run.
///
/// Who gives way to threads that never sleep comes back when each of them has had its turn, while one that sleeps and is
/// woken comes first. So when it took far too long, the next times are spent asleep: more of them each time.
private struct Lingering {
    let time: Duration
    private var skipped = 0
    private var nextSkipped = fewest
    private static let fewest = 16
    private static let most = 4096

    init(time: Duration) { self.time = time }

    /// Waits without sleeping until there is something to do, or it is not worth it.
    mutating func wait(until isDone: () -> Bool) {
        guard time > .zero else { return }
        guard skipped == 0 else {
            skipped -= 1
            return
        }
        let end = MonotonicInstant.after(time)
        let tooLate = MonotonicInstant.after(time * 2)
        while MonotonicInstant.now < end, !isDone() { OSThread.giveWay() }
        if MonotonicInstant.now < tooLate {
            nextSkipped = Self.fewest
        } else {
            skipped = nextSkipped
            nextSkipped = min(nextSkipped * 2, Self.most)
        }
    }
}
