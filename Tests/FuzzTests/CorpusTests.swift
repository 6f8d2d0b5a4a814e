import Foundation
import FuzzBodies
import Testing

/// Inputs that are kept: one of every kind, and each that has ever broken something.
@Suite struct Corpus {
    private static func files(_ folder: String) throws -> [String] {
        let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        return try Files.list(tests.appending(path: "Fuzz/Corpus/\(folder)").path)
    }

    @Test func `every message stream of the corpus is read as the rules say`() throws {
        let files = try Self.files("Wire")
        #expect(files.count >= WireInputs.seeds.count)
        for file in files {
            #expect(throws: Never.self, "\(file)") { try WireProperties.check(try Files.read(file)) }
        }
    }

    /// In a process of its own, where nothing else opens a descriptor.
    @Test func `every session of the corpus is played and leaves nothing behind`() async {
        await #expect(processExitsWith: .success) {
            let player = try SessionPlayer()
            for file in try Self.files("Session") {
                do {
                    try player.play(try Files.read(file))
                } catch {
                    throw Finding("\(file): \(error)")
                }
            }
        }
    }

    @Test func `every script of the corpus makes of its rings what the model makes`() throws {
        let player = try VirtqueuePlayer()
        let files = try Self.files("Virtqueue")
        #expect(files.count >= VirtqueueStatistics.errorNames.count)
        for file in files { #expect(throws: Never.self, "\(file)") { try player.play(try Files.read(file)) } }
        #expect(Set(player.statistics.errors.keys) == Set(VirtqueueStatistics.errorNames))
    }

    @Test func `the conversations of QEMU are in the corpus as they are rebuilt here`() throws {
        let files = try Self.files("Session")
        for (name, bytes) in Conversations.all {
            let file = try #require(files.first { $0.hasSuffix("/" + name) })
            #expect(try Files.read(file) == bytes)
        }
    }
}

@Suite struct Fuzzers {
    @Test func `messages that are nearly right are read as the rules say`() throws {
        for number in 0..<1_000 as Range<UInt64> {
            try WireProperties.check(WireInputs.input(seed: 7, number: number))
        }
    }

    @Test func `rings by seed come to what the model says`() throws {
        let player = try VirtqueuePlayer()
        for number in 0..<500 as Range<UInt64> {
            try player.play(VirtqueueInputs.input(seed: 7, number: number))
        }
        #expect(player.statistics.buffers > 0 && player.statistics.storms > 0)
    }

    @Test func `sessions by seed leave nothing behind and reach what there is`() async {
        await #expect(processExitsWith: .success) {
            let player = try SessionPlayer()
            for number in 0..<500 as Range<UInt64> {
                do throws(Finding) {
                    try player.play(SessionInputs.input(seed: 7, number: number))
                } catch {
                    throw Finding("session \(number) of seed 7: \(error)")
                }
            }
            for (number, name) in Statistics.clientCommands {
                let answers = player.statistics.answers[number] ?? Statistics.Answers()
                if answers.accepted == 0 { throw Finding("\(name) was never accepted") }
            }
            if player.statistics.twinRequests == 0 { throw Finding("no request came over a second socket") }
            if player.statistics.restoredStates == 0 { throw Finding("no state was given back") }
        }
    }

    /// The conversation is worth something only as far as the server agrees to it.
    @Test func `a conversation of QEMU is accepted to the last message but the ones that no device here knows`()
        async
    {
        await #expect(processExitsWith: .success) {
            let player = try SessionPlayer()
            for (name, bytes) in Conversations.all {
                let before = player.statistics
                try player.play(bytes)
                let replies = player.statistics.replies - before.replies
                let refused = player.statistics.errors.values.reduce(0, +) - before.errors.values.reduce(0, +)
                if replies < 36 || refused > 2 { throw Finding("\(name): \(refused) of \(replies) messages refused") }
            }
        }
    }
}
