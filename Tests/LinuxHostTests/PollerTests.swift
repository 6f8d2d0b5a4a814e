import Glibc
import LinuxHost
import Testing

@Suite struct `Event counters` {
    @Test func `signals add up and a drain takes them all`() throws {
        let counter = try EventCounter()
        #expect(counter.drain() == 0)
        for _ in 0..<3 { counter.signal() }
        #expect(counter.drain() == 3)
        #expect(counter.drain() == 0)
    }

    @Test func `a saturated blocking counter of a peer does not block a signal, nor an empty one a drain`() throws {
        let peers = try EventCounter()
        let number = peers.rawDescriptor
        try #require(fcntl(number, F_SETFL, 0) == 0)
        let counter = try EventCounter(adopting: OwnedDescriptor(adopting: dup(number)))
        #expect(counter.drain() == 0)
        var most = UInt64.max - 1
        #expect(unsafe write(number, &most, 8) == 8)
        counter.signal()
        counter.signal()
        #expect(counter.drain() == UInt64.max - 1)
    }

    @Test func `what is no eventfd is refused and closed`() async {
        await #expect(processExitsWith: .success) {
            var ends: [Int32] = [-1, -1]
            try #require(unsafe pipe(&ends) == 0)
            let others = [
                try memoryFile().take(), socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0),
                unsafe open("/dev/null", O_RDWR),
            ]
            for number in ends + others {
                let file = OpenFile(number)
                let error = errorOf { () throws(Errno) in
                    _ = try EventCounter(adopting: OwnedDescriptor(adopting: number))
                }
                #expect(error == .invalidArgument)
                #expect(!file.isOpen)
            }
        }
    }

    @Test func `a file that is named like an eventfd is none`() throws {
        let directory = try TemporaryDirectory()
        let file = try StorageFile(creatingPath: directory.file("anon_inode:[eventfd]"))
        let copy = try file.descriptor.duplicate().take()
        #expect(
            errorOf { () throws(Errno) in _ = try EventCounter(adopting: OwnedDescriptor(adopting: copy)) }
                == .invalidArgument)
    }
}

@Suite struct `Pollers` {
    @Test func `a ready descriptor is reported under its token until it is drained`() throws {
        let poller = try Poller()
        let counters = [try EventCounter(), try EventCounter()]
        for (token, counter) in counters.enumerated() {
            try poller.add(counter.rawDescriptor, token: UInt64(token) + 7, interest: .readable)
        }
        #expect(try poller.wait(timeout: .zero).isEmpty)
        counters[1].signal()
        for _ in 0..<2 {
            let events = try poller.wait()
            #expect(events.map(\.token) == [8])
            #expect(events.map(\.ready) == [.readable])
        }
        counters[1].drain()
        #expect(try poller.wait(timeout: .milliseconds(1)).isEmpty)
    }

    @Test func `interest can change and end`() throws {
        let poller = try Poller()
        let counter = try EventCounter()
        try poller.add(counter.rawDescriptor, token: 1, interest: .readable)
        try poller.change(counter.rawDescriptor, token: .max, interest: .writable)
        #expect(try poller.wait(timeout: .zero).map(\.token) == [.max])
        poller.remove(counter.rawDescriptor)
        poller.remove(counter.rawDescriptor)
        #expect(try poller.wait(timeout: .zero).isEmpty)
    }

    @Test func `a peer that hung up makes its socket ready for both`() throws {
        let poller = try Poller()
        let (left, right) = try UNIXSocket.pair()
        try poller.add(left.descriptor.rawValue, token: 3, interest: .readable)
        right.shutdown()
        let events = try poller.wait()
        #expect(events.map(\.ready) == [[.readable, .writable]])
    }

    @Test func `what is watched already, or always ready, is refused`() throws {
        let poller = try Poller()
        let counter = try EventCounter()
        try poller.add(counter.rawDescriptor, token: 1, interest: .readable)
        let directory = try TemporaryDirectory()
        let file = try StorageFile(creatingPath: directory.file("file"))
        let (counterDescriptor, fileDescriptor) = (counter.rawDescriptor, file.descriptor.rawValue)
        #expect(addError(poller, counterDescriptor) == .exists)
        #expect(addError(poller, fileDescriptor) == .notPermitted)
    }

    @Test func `more ready descriptors than one wait reports are all reported in the end`() throws {
        let poller = try Poller()
        let counters = try (0..<40).map { _ in try EventCounter() }
        for (token, counter) in counters.enumerated() {
            try poller.add(counter.rawDescriptor, token: UInt64(token), interest: .readable)
            counter.signal()
        }
        var seen: Set<UInt64> = []
        while seen.count < counters.count {
            let events = try poller.wait(timeout: .zero)
            try #require(!events.isEmpty)
            for event in events {
                #expect(seen.insert(event.token).inserted)
                counters[Int(event.token)].drain()
            }
        }
    }

    private func addError(_ poller: borrowing Poller, _ number: Int32) -> Errno? {
        do throws(Errno) {
            try poller.add(number, token: 2, interest: .readable)
            return nil
        } catch {
            return error
        }
    }
}

@Suite struct `Signal queues` {
    @Test func `a queued signal is read instead of ending the process`() async {
        await #expect(processExitsWith: .success) {
            let queue = try SignalQueue([SIGTERM, SIGINT])
            #expect(queue.next() == nil)
            pthread_kill(pthread_self(), SIGTERM)
            let poller = try Poller()
            try poller.add(queue.descriptor.rawValue, token: 1, interest: .readable)
            #expect(try poller.wait().count == 1)
            #expect(queue.next() == SIGTERM)
            #expect(queue.next() == nil)
        }
    }
}
