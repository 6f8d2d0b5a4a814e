import JSONText
import Randomness
import Testing
import VFIOUserRecording

@Suite struct `The format of recordings` {
    @Test(arguments: Golden.allCases)
    func `a recording of QEMU begins with what was served and ends as it should`(golden: Golden) throws {
        let entries = try golden.entries()
        guard case .served(let what, let wallClock)? = entries.first?.event else {
            Issue.record("no beginning")
            return
        }
        #expect(what == (golden == .edu ? "edu" : "nvme"))
        #expect(wallClock > 1_600_000_000_000_000_000)
        #expect(entries.last?.event == .finished)
        // The backend is told to end as soon as QEMU has ended, and may hear of that first.
        let ending = entries.dropLast().last?.event
        #expect(ending == .disconnected(.clientLeft) || ending == .disconnected(.serverClosed))
        #expect(zip(entries, entries.dropFirst()).allSatisfy { $0.time <= $1.time })
    }

    /// A process that is killed leaves such a file.
    @Test func `a file that ends anywhere is read up to there`() throws {
        let bytes = Array(try Golden.edu.bytes().prefix(3000))
        var counts: Set<Int> = []
        for count in 16..<bytes.count {
            var reader = try RecordingReader(Array(bytes.prefix(count)))
            let entries = try reader.all()
            #expect(reader.isCut == (reader.offset != count))
            #expect(reader.offset <= count)
            counts.insert(entries.count)
        }
        #expect(counts == Set(0...(counts.max() ?? 0)))
    }

    @Test func `what is no recording is refused`() throws {
        #expect(throws: RecordingError.notARecording) { _ = try RecordingReader([]) }
        #expect(throws: RecordingError.notARecording) { _ = try RecordingReader(Array("vfiourec".utf8)) }
        #expect(throws: RecordingError.notARecording) {
            _ = try RecordingReader([UInt8](repeating: 0x20, count: 100))
        }
        var later = try Golden.edu.bytes()
        later[8] = 2
        #expect(throws: RecordingError.unknownVersion(2)) { _ = try RecordingReader(later) }
    }

    @Test func `a record that makes no sense is told with its offset`() throws {
        let bytes = try Golden.edu.bytes()
        var first = try RecordingReader(bytes)
        _ = try first.next()
        _ = try first.next()
        let offset = first.offset
        var unknown = bytes
        unknown[offset + 4] = 99
        var reader = try RecordingReader(unknown)
        #expect(throws: RecordingError.unknownRecord(99, offset: offset)) { _ = try reader.all() }
        var manyDescriptors = bytes
        manyDescriptors[offset + 16 + 3] = 0xff
        reader = try RecordingReader(manyDescriptors)
        #expect(throws: RecordingError.malformedRecord(offset: offset)) { _ = try reader.all() }
    }

    @Test(arguments: 0..<200 as Range<UInt64>)
    func `damaged files are read without harm`(seed: UInt64) throws {
        var numbers = SeededNumbers(seed: seed)
        var bytes = Array(try Golden.nvme.bytes().prefix(Int.random(in: 16...20_000, using: &numbers)))
        for _ in 0..<Int.random(in: 1...8, using: &numbers) {
            let place = Int.random(in: 16..<max(17, bytes.count), using: &numbers)
            if place < bytes.count { bytes[place] = UInt8.random(in: 0...255, using: &numbers) }
        }
        var reader = try RecordingReader(bytes)
        var capture = PacketCapture()
        do {
            while let entry = try reader.next() {
                #expect(!entry.line.isEmpty)
                let json = try entry.json.text()
                #expect(json.first == UInt8(ascii: "{"))
                capture.append(entry)
            }
        } catch is RecordingError {
            #expect(reader.offset < bytes.count)
        }
    }
}
