/// What a module that makes reports of its own may ask. Every answer is empty for a thread that nobody watches.
extension LockChecker {
    /// The limits of the checker that watches the calling thread.
    public static var limits: Limits { CheckedThread.current?.checker.limits ?? Limits() }

    /// What the kernel calls the calling thread.
    public static var threadName: String { CheckedThread.name }

    /// A number of the calling thread that no other has, nor had: another one in each recording. Zero when nobody watches.
    public static var threadSerial: UInt64 { CheckedThread.current?.serial ?? 0 }

    /// What the calling thread holds, in the order of taking.
    public static var heldClasses: [LockClass] { CheckedThread.current?.heldClasses ?? [] }

    /// Where the calling thread took what it holds of a class.
    public static func place(ofHeld lockClass: LockClass, instance: ObjectIdentifier? = nil) -> SourcePlace? {
        CheckedThread.current?.place(of: lockClass, instance)
    }

    /// What any watched thread was seen to take while it held a class.
    public static func classesTaken(inside lockClass: LockClass) -> [LockClass] {
        CheckedThread.current?.checker.classesTaken(inside: lockClass) ?? []
    }
}
