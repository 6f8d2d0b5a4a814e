import CopyEngine
import LinuxHost
import Testing
import VFIOUserClient

private typealias Completion = CopyEngineDriver.Completion
private typealias Register = CopyEngineDriver.Register

/// A byte that depends on where it is.
private func mark(_ index: Int) -> UInt8 { UInt8(truncatingIfNeeded: index &* 13 &+ index >> 12) }

@Suite struct `Demand paging` {
    /// The addresses of `count` pages from one on.
    private func pages(_ first: UInt64, _ count: Int) -> [UInt64] { (0..<UInt64(count)).map { first + $0 * 4096 } }

    @Test(arguments: [Client.Sharing.descriptor, .messages])
    func `every page of a copy between two PASIDs is asked for once, in groups, and brought`(
        sharing: Client.Sharing
    ) throws {
        try withDriver(sharing: sharing, ringSize: 256) { driver in
            try driver.command(.create(5, hasDemandPaging: true))
            try driver.command(.create(700, hasDemandPaging: true))
            driver.fill(0, count: 100, mark)
            let length = UInt64(100 * 4096)
            let copy = try driver.submit(.copy((5, 0x4000_0000), to: (700, 0x9000_0000), length: length), .work)
            let asked = try driver.serve(until: { driver.completion(of: copy) != nil }) { request in
                let isSource = request.pasid == 5
                let page = Int((request.page - (isSource ? 0x4000_0000 : 0x9000_0000)) / 4096)
                return driver.memoryPage(isSource ? page : 200 + page)
            }
            #expect(driver.completion(of: copy) == Completion(bytes: length))
            #expect(driver.contents(200, count: 100) == driver.contents(0, count: 100))
            #expect(asked.filter { $0.pasid == 5 }.map(\.page) == pages(0x4000_0000, 100))
            #expect(asked.filter { $0.pasid == 700 }.map(\.page) == pages(0x9000_0000, 100))
            #expect(asked.allSatisfy { $0.rights == ($0.pasid == 5 ? 1 : 2) })
            // 64 KiB at a time.
            let groups = try driver.readLong(Register.groupsAnswered)
            #expect(groups == 2 * 7 && Set(asked.map(\.cookie)).count == Int(groups))
            #expect(try driver.readLong(Register.groupsRefused) == 0)
            let (total, longest) = (try driver.readLong(Register.waitTotal), try driver.readLong(Register.longestWait))
            #expect(longest > 0 && longest <= total && total <= longest * groups)
        }
    }

    @Test func `only what is missing is asked for, and only for what it is needed`() throws {
        try withDriver { driver in
            try driver.command(.create(5, hasDemandPaging: true))
            for page in [1, 2, 5] as [UInt64] {
                try driver.command(.map(5, at: page * 4096, to: driver.memoryPage(Int(page))))
            }
            try driver.command(.map(5, at: 3 * 4096, to: driver.memoryPage(3), rights: 1))
            driver.fill(20, count: 8, mark)
            let copy = try driver.submit(.copy((0, driver.memoryPage(20)), to: (5, 100), length: 6 * 4096), .work)
            let group = try driver.awaitGroup()
            #expect(group.map(\.page) == [0, 0x3000, 0x4000, 0x6000])
            #expect(group.map(\.rights) == [2, 2, 2, 2])
            #expect(group.map(\.isLast) == [false, false, false, true])
            try driver.command(.unmap(5, at: 0x3000))
            for request in group {
                try driver.command(.map(5, at: request.page, to: driver.memoryPage(Int(request.page / 4096))))
            }
            try driver.command(.answer(group[0].cookie))
            #expect(try driver.finish(copy) == Completion(bytes: 6 * 4096))
            #expect(driver.contents(0, count: 7)[100..<100 + 6 * 4096] == driver.contents(20, count: 6)[...])
        }
    }

    @Test func `a refusal fails the work that wanted the page and nothing else`() throws {
        try withDriver { driver in
            try driver.command(.create(5, hasDemandPaging: true))
            driver.fill(0, count: 64, mark)
            let refused = try driver.submit(.copy((5, 0x1000), to: (0, driver.memoryPage(100)), length: 8192), .work)
            let served = try driver.submit(.copy((5, 0x10_0000), to: (0, driver.memoryPage(110)), length: 8192), .work)
            try driver.serve(until: { driver.completion(of: served) != nil && driver.completion(of: refused) != nil }) {
                $0.page < 0x10_0000 ? nil : driver.memoryPage(Int(($0.page - 0x10_0000) / 4096))
            }
            #expect(
                driver.completion(of: refused) == Completion(status: 8, operand: 1, faultAddress: 0x1000))
            #expect(driver.completion(of: served) == Completion(bytes: 8192))
            #expect(driver.contents(100, count: 2).allSatisfy { $0 == 0 })
            #expect(driver.contents(110, count: 2) == driver.contents(0, count: 2))
            // The same page is asked for anew.
            let again = try driver.submit(.copy((5, 0x1000), to: (0, driver.memoryPage(100)), length: 4096), .work)
            try driver.serve(until: { driver.completion(of: again) != nil }) { _ in driver.memoryPage(1) }
            #expect(driver.completion(of: again) == Completion(bytes: 4096))
            #expect(driver.contents(100) == driver.contents(1))
            #expect(try driver.status == CopyEngineDriver.Status.ready)
        }
    }

    @Test func `a refusal in the middle tells what was transferred before it`() throws {
        try withDriver { driver in
            try driver.command(.create(5, hasDemandPaging: true))
            driver.fill(0, count: 64, mark)
            let copy = try driver.submit(.copy((5, 0), to: (0, driver.memoryPage(100)), length: 64 * 4096), .work)
            try driver.serve(until: { driver.completion(of: copy) != nil }) {
                $0.page == 40 * 4096 ? nil : driver.memoryPage(Int($0.page / 4096))
            }
            let done = try #require(driver.completion(of: copy))
            #expect(done == Completion(status: 8, operand: 1, bytes: 32 * 4096, faultAddress: 32 * 4096))
            #expect(driver.contents(100, count: 32) == driver.contents(0, count: 32))
            #expect(driver.contents(132, count: 32).allSatisfy { $0 == 0 })
        }
    }

    @Test func `a group that nobody answers is refused in time, and an answer that comes later is none`() throws {
        try withDriver({ $0.pageTimeout = .milliseconds(50) }) { driver in
            try driver.command(.create(5, hasDemandPaging: true))
            let fill = try driver.submit(.fill(5, at: 0, pattern: 1, length: 8), .work)
            let group = try driver.awaitGroup()
            #expect(try driver.finish(fill) == Completion(status: 8, operand: 2, faultAddress: 0))
            #expect(try driver.command(.answer(group[0].cookie)) == Completion(status: 6, operand: 1, error: 22))
            #expect(try driver.readLong(Register.groupsRefused) == 1)
        }
    }

    @Test func `a second answer is refused`() throws {
        try withDriver { driver in
            try driver.command(.create(5, hasDemandPaging: true))
            let fill = try driver.submit(.fill(5, at: 0, pattern: 1, length: 8), .work)
            let group = try driver.awaitGroup()
            try driver.command(.map(5, at: 0, to: driver.memoryPage(0)))
            #expect(try driver.command(.answer(group[0].cookie)) == Completion())
            #expect(try driver.command(.answer(group[0].cookie)).error == 22)
            #expect(try driver.command(.answer(group[0].cookie, isAccessible: false)).error == 22)
            #expect(try driver.finish(fill) == Completion(bytes: 8))
        }
    }

    @Test func `a driver that says yes and brings nothing is asked a few times`() throws {
        try withDriver { driver in
            try driver.command(.create(5, hasDemandPaging: true))
            let fill = try driver.submit(.fill(5, at: 0x5008, pattern: 1, length: 8), .work)
            var asked = 0
            try driver.wait {
                while let group = try driver.nextGroup() {
                    asked += 1
                    try driver.command(.answer(group[0].cookie))
                }
                return driver.completion(of: fill) != nil
            }
            #expect(driver.completion(of: fill) == Completion(status: 10, operand: 2, faultAddress: 0x5008))
            #expect(asked == 8)
        }
    }

    @Test func `a page that is unmapped while work uses it is asked for again`() throws {
        try withDriver { driver in
            try driver.command(.create(5, hasDemandPaging: true))
            driver.fill(0, count: 2) { $0 < 4096 ? 1 : 2 }
            for (place, value) in [(0, 1), (1, 2)] as [(Int, UInt8)] {
                let copy = try driver.submit(.copy((5, 0), to: (0, driver.memoryPage(9)), length: 4096), .work)
                try driver.serve(until: { driver.completion(of: copy) != nil }) { _ in driver.memoryPage(place) }
                #expect(driver.contents(9) == [UInt8](repeating: value, count: 4096))
                #expect(try driver.command(.unmap(5, at: 0)) == Completion(bytes: 4096))
            }
        }
    }

    @Test func `the driver is interrupted for requests, and takes them as slowly as it likes`() throws {
        try withDriver({ $0.workers = 16 }, ringSize: 32) { driver in
            try driver.command(.create(5, hasDemandPaging: true))
            driver.fill(0, count: 16, mark)
            // Sixteen groups of sixteen pages, for a ring of 31.
            let copies = (0..<16).map { number in
                driver.put(
                    .copy((5, UInt64(number) << 16), to: (0, driver.memoryPage(100 + number * 16)), length: 1 << 16),
                    .work)
            }
            try driver.ring(.work)
            #expect(try driver.client.wait(for: driver.counters[2], atMost: .seconds(60)) > 0)
            try driver.serve(until: { copies.allSatisfy { driver.completion(of: $0) != nil } }) {
                driver.memoryPage(Int($0.page / 4096 % 16))
            }
            for (number, copy) in copies.enumerated() {
                #expect(driver.completion(of: copy) == Completion(bytes: 1 << 16))
                #expect(driver.contents(100 + number * 16, count: 16) == driver.contents(0, count: 16))
            }
        }
    }

    @Test func `a space without demand paging asks for nothing, and none can have it without a ring`() throws {
        try withDriver(isEnabled: false) { driver in
            try driver.enable(hasPageRing: false)
            #expect(try driver.command(.create(5, hasDemandPaging: true)) == Completion(status: 6, error: 95))
            #expect(try driver.command(.create(5)) == Completion())
            #expect(try driver.work(.fill(5, at: 0, pattern: 1, length: 8)).status == 7)
        }
    }

    @Test func `the destruction of a space ends the work that waits in it`() throws {
        try withDriver { driver in
            try driver.command(.create(5, hasDemandPaging: true))
            let fill = try driver.submit(.fill(5, at: 0, pattern: 1, length: 8), .work)
            let group = try driver.awaitGroup()
            #expect(try driver.command(.destroy(5)) == Completion())
            #expect(try driver.finish(fill).status == 8)
            #expect(try driver.command(.answer(group[0].cookie)).error == 22)
        }
    }
}
