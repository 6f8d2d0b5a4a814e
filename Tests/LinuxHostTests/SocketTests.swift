import Glibc
import LinuxHost
import Testing

@Suite struct `Sockets` {
    @Test func `descriptors arrive with the bytes they were sent with`() throws {
        let (left, right) = try UNIXSocket.pair()
        let file = try memoryFile()
        var bundle = DescriptorBundle()
        bundle.append(try file.duplicate())
        bundle.append(try memoryFile())
        #expect(try left.send("hello", descriptors: bundle) == 5)
        var received = try right.receive()
        #expect(received.text == "hello")
        #expect(!received.hasLost == true)
        #expect(received.descriptors.count == 2)
        let first = received.descriptors.takeFirst()?.take() ?? -1
        let adopted = OwnedDescriptor(adopting: first)
        #expect(try adopted.status().identity == file.status().identity)
        #expect(fcntl(first, F_GETFD) & FD_CLOEXEC != 0)
    }

    @Test func `bytes sent before descriptors may come with them, and later bytes come later`() throws {
        let (left, right) = try UNIXSocket.pair()
        _ = try left.send("one ")
        _ = try left.send("two", descriptors: bundle(of: 1))
        _ = try left.send("three")
        let first = try right.receive()
        #expect(first.text == "one two")
        #expect(first.descriptors.count == 1)
        let second = try right.receive()
        #expect(second.text == "three")
        #expect(second.descriptors.isEmpty == true)
    }

    @Test func `descriptors of two messages never arrive in one read`() throws {
        let (left, right) = try UNIXSocket.pair()
        _ = try left.send("one", descriptors: bundle(of: 1))
        _ = try left.send("two", descriptors: bundle(of: 2))
        let first = try right.receive()
        #expect(first.text == "one")
        #expect(first.descriptors.count == 1)
        let second = try right.receive()
        #expect(second.text == "two")
        #expect(second.descriptors.count == 2)
    }

    @Test func `descriptors come with the first of several reads`() throws {
        let (left, right) = try UNIXSocket.pair()
        _ = try left.send("abcdef", descriptors: bundle(of: 1))
        let first = try right.receive(atMost: 2)
        #expect(first.text == "ab")
        #expect(first.descriptors.count == 1)
        let rest = try right.receive()
        #expect(rest.text == "cdef")
        #expect(rest.descriptors.isEmpty == true)
    }

    @Test func `as many descriptors as the kernel sends at once arrive, and more are refused`() throws {
        let (left, right) = try UNIXSocket.pair()
        let file = try memoryFile()
        var many = DescriptorBundle()
        for _ in 0..<253 { many.append(try file.duplicate()) }
        _ = try left.send("x", descriptors: many)
        let received = try right.receive()
        #expect(received.descriptors.count == 253)
        #expect(!received.hasLost == true)
        var tooMany = DescriptorBundle()
        for _ in 0..<254 { tooMany.append(try file.duplicate()) }
        let error = errorOf { [tooMany = BundleBox(tooMany)] () throws(Errno) in
            _ = try left.send("x", descriptors: tooMany.take())
        }
        #expect(error == .invalidArgument)
    }

    @Test func `descriptors that the process has no room for are reported as lost`() async {
        await #expect(processExitsWith: .success) {
            let (left, right) = try UNIXSocket.pair()
            _ = try left.send("x", descriptors: bundle(of: 8))
            let lowest = try memoryFile().take()
            close(lowest)
            var limit = rlimit()
            unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            limit.rlim_cur = rlim_t(lowest + 2)
            unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            let received = try right.receive()
            #expect(received.text == "x")
            #expect(received.hasLost == true)
            #expect(received.descriptors.count <= 2)
        }
    }

    @Test func `nothing to read, no room to write and a closed peer are told apart`() throws {
        let (left, right) = try UNIXSocket.pair()
        #expect(errorOf { () throws(Errno) in _ = try right.receive() } == .wouldBlock)
        let chunk = String(repeating: "x", count: 4096)
        var error: Errno?
        while error == nil { error = errorOf { () throws(Errno) in _ = try left.send(chunk) } }
        #expect(error == .wouldBlock)
        left.shutdown()
        var end = try right.receive()
        while end.text != "" { end = try right.receive() }
        #expect(end.text == "")
        #expect(errorOf { () throws(Errno) in _ = try left.send("x") } == .brokenPipe)
        #expect(errorOf { () throws(Errno) in _ = try right.send("x") } == .brokenPipe)
    }
}

@Suite struct `Listeners` {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    @Test func `a listener hands out its clients in order`() throws {
        let path = directory.file("socket")
        let listener = try UNIXSocketListener(path: path)
        #expect(errorOf { () throws(Errno) in _ = try listener.accept() } == .wouldBlock)
        let client = try UNIXSocket.connect(toPath: path)
        let server = try listener.accept()
        _ = try client.send("hi")
        let received = try server.receive()
        #expect(received.text == "hi")
    }

    @Test func `a listener's file goes with it`() throws {
        do {
            let listener = try UNIXSocketListener(path: directory.file("socket"))
            #expect(directory.exists("socket"))
            _ = listener.descriptor.rawValue
        }
        #expect(!directory.exists("socket"))
    }

    @Test func `a stale socket is replaced and a live one refused`() throws {
        let path = directory.file("socket")
        // Bound by hand and left behind, as by a program that was killed.
        let stale = try bindByHand(path)
        close(stale)
        #expect(directory.exists("socket"))
        let listener = try UNIXSocketListener(path: path)
        #expect(errorOf { () throws(Errno) in _ = try UNIXSocketListener(path: path) } == .addressInUse)
        #expect(directory.exists("socket"))
        _ = try UNIXSocket.connect(toPath: path)
        _ = try listener.accept()
    }

    @Test func `a socket whose listener has no room for another client is refused, without waiting`() throws {
        let path = directory.file("socket")
        let listener = try UNIXSocketListener(path: path)
        // The kernel lets one more in than the length of the queue, which is 16.
        let clients = try (0..<17).map { _ in try UNIXSocket.connect(toPath: path) }
        #expect(errorOf { () throws(Errno) in _ = try UNIXSocketListener(path: path) } == .addressInUse)
        #expect(directory.exists("socket") && clients.count > 1)
        _ = try listener.accept()
    }

    @Test func `a listener leaves the socket that somebody else put in its place`() throws {
        let path = directory.file("socket")
        do {
            let listener = try UNIXSocketListener(path: path)
            #expect(unsafe unlink(path) == 0)
            close(try bindByHand(path))
            _ = listener.descriptor.rawValue
        }
        #expect(directory.exists("socket"))
    }

    @Test func `a path that is no socket, too long, empty or nowhere is refused`() throws {
        _ = try StorageFile(creatingPath: directory.file("file"))
        func error(_ path: String) -> Errno? {
            errorOf { () throws(Errno) in _ = try UNIXSocketListener(path: path) }
        }
        #expect(error(directory.file("file")) == .addressInUse)
        #expect(directory.exists("file"))
        #expect(error(directory.file(String(repeating: "x", count: 108))) == .nameTooLong)
        #expect(error("") == .invalidArgument)
        #expect(error(directory.file("missing/socket")) == .noSuchEntry)
        #expect(
            errorOf { () throws(Errno) in _ = try UNIXSocket.connect(toPath: directory.file("none")) } == .noSuchEntry)
    }

    @Test func `the longest path that fits works`() throws {
        let name = String(repeating: "x", count: 107 - directory.path.utf8.count - 1)
        let listener = try UNIXSocketListener(path: directory.file(name))
        #expect(directory.exists(name))
        _ = try UNIXSocket.connect(toPath: directory.file(name))
        _ = try listener.accept()
    }

    private func bindByHand(_ path: String) throws -> Int32 {
        let number = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { buffer in
            unsafe buffer.copyBytes(from: Array(path.utf8) + [0])
        }
        let status = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                unsafe bind(number, address, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        try #require(status == 0)
        return number
    }
}

private func bundle(of count: Int) throws(Errno) -> DescriptorBundle {
    var bundle = DescriptorBundle()
    for _ in 0..<count { bundle.append(try memoryFile()) }
    return bundle
}

/// A bundle that a closure can consume.
private final class BundleBox {
    private var bundle: DescriptorBundle?

    init(_ bundle: consuming DescriptorBundle) { self.bundle = consume bundle }

    func take() -> DescriptorBundle { bundle.take() ?? DescriptorBundle() }
}
