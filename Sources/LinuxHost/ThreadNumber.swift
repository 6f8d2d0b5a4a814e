public import CLinuxShims
import Glibc

/// A small number for each living thread: 0, 1, 2, … without holes, so that it can index what is kept for each thread.
///
/// Whatever a thread wrote before it ended is seen by the next thread that gets its number.
public enum ThreadNumber {
    /// The calling thread's number, the lowest that no living thread had when it first asked.
    ///
    /// It stays the same until the thread ends and is given to another thread then. A thread that the library did not
    /// start has one as well. Costs a load and a branch, but for the first time on a thread.
    @inlinable public static var current: Int {
        let known = shim_thread_number_plus_one()
        return known != 0 ? Int(known) - 1 : assign()
    }

    /// Gives the calling thread the lowest number that is free, until it ends.
    @usableFromInline
    @inline(never)
    static func assign() -> Int {
        let number = numbersInUse.withLock { $0.takeLowest() }
        shim_set_thread_number_plus_one(UInt32(number + 1))
        // Only a value that is not nil has the destructor called at the thread's end.
        let status = unsafe pthread_setspecific(endOfThread, UnsafeRawPointer(bitPattern: number + 1))
        precondition(status == 0, "no memory for a thread's number")
        return number
    }

    private static let numbersInUse = PlainLock(NumbersInUse())

    /// A key whose destructor gives back the number of the thread that ends. Should another destructor ask for a number
    /// after this one has run, the thread gets one anew and this one is called once more.
    private static let endOfThread: pthread_key_t = {
        var key = pthread_key_t()
        let status = unsafe pthread_key_create(&key) { _ in
            let number = Int(shim_thread_number_plus_one()) - 1
            shim_set_thread_number_plus_one(0)
            numbersInUse.withLock { $0.giveBack(number) }
        }
        precondition(status == 0, "no thread-specific key left")
        return key
    }()
}

/// A set of small numbers that hands out the lowest one it does not hold.
private struct NumbersInUse {
    private var words: [UInt64] = []

    mutating func takeLowest() -> Int {
        let index = words.firstIndex { $0 != .max } ?? words.endIndex
        if index == words.endIndex { words.append(0) }
        let bit = (~words[index]).trailingZeroBitCount
        words[index] |= 1 << UInt64(bit)
        return index * UInt64.bitWidth + bit
    }

    mutating func giveBack(_ number: Int) {
        let (index, bit) = number.quotientAndRemainder(dividingBy: UInt64.bitWidth)
        precondition(words[index] & (1 << UInt64(bit)) != 0, "a thread's number is given back once")
        words[index] &= ~(1 << UInt64(bit))
    }
}
