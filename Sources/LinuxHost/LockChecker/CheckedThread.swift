import CLinuxShims
import Glibc
import Synchronization

/// One lock that a thread holds, or something that counts as one.
struct HeldLock {
    let lockClass: LockClass
    /// Which of the class; `nil` stands for all of them.
    let instance: ObjectIdentifier?
    let mode: LockChecker.Mode
    let place: SourcePlace

    func isSame(as other: ObjectIdentifier?) -> Bool { instance == nil || other == nil || instance == other }
}

/// What one thread holds, as one lock checker sees it. Touched by its thread alone.
final class CheckedThread {
    private static let count = Atomic<UInt64>(0)

    let checker: LockChecker
    /// Its number among all that were ever watched, from one.
    let serial = CheckedThread.count.wrappingAdd(1, ordering: .relaxed).newValue
    private var held: [HeldLock] = []
    /// What the checker has told or was told already, so that it need not be asked under its lock again.
    private var numbers: [LockClass: Int] = [:]
    private var knownEdges: Set<LockGraph.Edge.Key> = []

    init(checker: LockChecker) {
        self.checker = checker
    }

    /// Holds a lock, before it is really taken: what is wrong is reported before it can hang.
    func acquire(_ lock: HeldLock) {
        check(lock)
        held.append(lock)
    }

    /// Holds a lock no more. One that was taken before anybody looked is not known, and that is fine.
    func release(_ lockClass: LockClass, _ instance: ObjectIdentifier?) {
        let index = held.lastIndex { $0.instance == instance && $0.lockClass == lockClass }
        if let index { held.remove(at: index) }
    }

    func pass(through lock: HeldLock) {
        wait(at: lock.place, for: lock.lockClass)
        check(lock)
    }

    /// Reports what is held that forbids waiting; not what is waited for, which is worse and reported as such.
    func wait(at place: SourcePlace, for own: LockClass?) {
        for lock in held where lock.lockClass.rules.contains(.forbidsWaiting) && lock.lockClass != own {
            checker.raise(.waiting(inside: lock, at: place, thread: Self.name))
        }
    }

    /// Reports what is held that forbids callbacks.
    func callBack(at place: SourcePlace) {
        for lock in held where lock.lockClass.rules.contains(.forbidsCallbacks) {
            checker.raise(.callback(inside: lock, at: place, thread: Self.name))
        }
    }

    /// What it holds, in the order of taking.
    var heldClasses: [LockClass] { held.map(\.lockClass) }

    /// Where it took what it holds of a class.
    func place(of lockClass: LockClass, _ instance: ObjectIdentifier?) -> SourcePlace? {
        held.last { $0.lockClass == lockClass && $0.isSame(as: instance) }?.place
    }

    private func check(_ lock: HeldLock) {
        guard !held.isEmpty else { return }
        let taken = number(of: lock.lockClass)
        for other in held {
            let key = LockGraph.Edge.Key(
                held: number(of: other.lockClass), heldMode: other.mode, taken: taken, takenMode: lock.mode)
            if key.held == taken {
                checkNesting(of: lock, in: other)
            } else if knownEdges.insert(key).inserted {
                checker.add(
                    LockGraph.Edge(key: key, heldPlace: other.place, takenPlace: lock.place, thread: Self.name))
            }
        }
    }

    private func checkNesting(of lock: HeldLock, in other: HeldLock) {
        guard lock.lockClass.conflicts(lock.mode, other.mode) else { return }
        if other.isSame(as: lock.instance) {
            checker.raise(.recursion(of: other, at: lock.place, thread: Self.name))
        } else if !lock.lockClass.rules.contains(.allowsNesting) {
            checker.raise(.nesting(in: other, at: lock.place, thread: Self.name))
        }
    }

    private func number(of lockClass: LockClass) -> Int {
        if let number = numbers[lockClass] { return number }
        let number = checker.number(of: lockClass)
        numbers[lockClass] = number
        return number
    }

    /// The calling thread's name as the kernel has it.
    static var name: String {
        var bytes = [CChar](repeating: 0, count: Int(SHIM_THREAD_NAME_SIZE))
        let status = unsafe shim_get_thread_name(&bytes)
        let text = bytes.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
        return status == 0 ? String(decoding: text, as: UTF8.self) : "?"
    }
}

extension CheckedThread {
    /// What the calling thread holds in the eyes of the checker that watches it; `nil` when none does.
    static var current: CheckedThread? {
        if let own { return own }
        guard let checker = LockChecker.ofProcess else { return nil }
        let thread = CheckedThread(checker: checker)
        own = thread
        return thread
    }

    /// What the calling thread keeps for itself. It ends with the thread.
    static var own: CheckedThread? {
        get {
            guard let kept = unsafe pthread_getspecific(key) else { return nil }
            return unsafe Unmanaged<CheckedThread>.fromOpaque(kept).takeUnretainedValue()
        }
        set {
            let previous = unsafe pthread_getspecific(key)
            let kept = unsafe newValue.map { unsafe Unmanaged.passRetained($0).toOpaque() }
            let status = unsafe pthread_setspecific(key, kept)
            precondition(status == 0, "no memory for what a thread holds")
            if let previous = unsafe previous { unsafe Unmanaged<CheckedThread>.fromOpaque(previous).release() }
        }
    }

    private static let key: pthread_key_t = {
        var key = pthread_key_t()
        let status = unsafe pthread_key_create(&key) { kept in
            if let kept = unsafe kept { unsafe Unmanaged<CheckedThread>.fromOpaque(kept).release() }
        }
        precondition(status == 0, "no thread-specific key left")
        return key
    }()
}
