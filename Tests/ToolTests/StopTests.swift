import Foundation
import LinuxHost
import Testing

@Suite struct `Ending the tool` {
    @Test func `SIGTERM ends it with status 0 and leaves no socket`() throws {
        let tool = try RunningTool()
        tool.waitForSocket()
        #expect(tool.terminate() == 0)
        #expect(!tool.socketExists)
    }

    @Test func `SIGTERM ends it while a client is connected`() throws {
        let tool = try RunningTool()
        tool.waitForSocket()
        let client = try tool.connect()
        #expect(tool.terminate() == 0)
        #expect(!tool.socketExists)
        _ = client.descriptor.rawValue
    }

    @Test func `SIGTERM ends it when nobody reads what it prints`() throws {
        let pipe = fullPipe()
        let tool = try RunningTool(standardOutput: pipe.fileHandleForWriting)
        tool.waitForSocket()
        #expect(tool.terminate() == 0)
        #expect(!tool.socketExists)
    }

    @Test func `a client is served, and SIGTERM ends the tool, when nobody reads the log`() throws {
        let pipe = fullPipe()
        let tool = try RunningTool(standardError: pipe.fileHandleForWriting)
        tool.waitForSocket()
        // A request before the version message is refused, which is worth a line in the log, and ends the connection.
        for _ in 0..<2 {
            let client = try tool.connect()
            let request: [UInt8] = [1, 0, 13, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
            let sent = try unsafe request.withUnsafeBytes {
                unsafe try client.send($0, descriptors: DescriptorBundle(), waiting: true)
            }
            #expect(sent == 16)
            var reply = [UInt8](repeating: 0, count: 64)
            let received = try unsafe reply.withUnsafeMutableBytes {
                unsafe try client.receive(into: $0, waiting: true).count
            }
            #expect(received == 16)
        }
        #expect(tool.terminate() == 0)
        #expect(!tool.socketExists)
    }
}
