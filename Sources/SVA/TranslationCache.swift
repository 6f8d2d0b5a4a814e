import DMA
import LinuxHost

/// The translations that a device keeps for itself: pages that it has pinned, so that it need not look them up.
///
/// What a device with address translation services has. An unmap is the invalidation: the page is struck out at once and
/// unpinned by the last thread that uses it, and the unmap returns when the pin is gone. There are as many entries as the
/// capacity says; one that was not used lately makes room (the clock algorithm). What finds no room is pinned for one use.
///
/// Its lock is held while entries are looked up and struck out, and never while one is pinned, unpinned or used.
@safe
final class TranslationCache: Sendable {
    struct Key: Hashable {
        let pasid: PASID?
        let page: IOVA
        /// Those it was pinned with, and no others: a page that is only read must not be noted as written.
        let rights: AccessRights

        var range: IOVARange {
            IOVARange(first: page, last: IOVA(page.rawValue | (PageRequest.pageSize - 1)))
        }
    }

    /// A pinned page.
    @safe
    final class Entry: @unchecked Sendable {  // What changes does so under the lock; the last user unpins.
        let key: Key
        let memory: UnsafeMutableRawBufferPointer
        fileprivate var pin: PinnedMemory?
        fileprivate var users = 1
        /// It is struck out, or was never entered.
        fileprivate var isStale = false
        fileprivate var wasUsed = true

        fileprivate init(_ key: Key, _ pin: consuming PinnedMemory) {
            self.key = key
            var memory = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
            unsafe pin.forEachSegment { unsafe memory = $0 }
            unsafe self.memory = memory
            self.pin = consume pin
        }

        fileprivate func unpin() { pin.take()?.unpin() }

        fileprivate func noteWrite() {
            if key.rights.contains(.write) { pin?.noteWrite() }
        }
    }

    /// A page that a thread is pinning, and so not an entry yet.
    fileprivate struct Fill {
        let key: Key
        /// It was unmapped meanwhile, though the pin may have been in time.
        var isStale = false
    }

    fileprivate struct State {
        var places: [Key: Int] = [:]
        var entries: [Entry?]
        var hand = 0
        var fills: [Int: Fill] = [:]
        var lastFill = 0
        /// Threads that use an entry, entered or not, or are about to.
        var useCount = 0
    }

    let capacity: Int
    private let state: Monitor<State>

    init(capacity: Int) {
        self.capacity = max(0, capacity)
        state = Monitor(State(entries: Array(repeating: nil, count: max(0, capacity))), as: .translationCache)
    }

    /// The number of pages it keeps.
    var count: Int { state.withLock { $0.places.count } }

    /// Calls `body` with the page's memory, which is pinned as long as that runs.
    ///
    /// - Parameter pin: pins the page if it is not kept. May wait for the page.
    /// - Throws: what `pin` throws.
    func withPage<Failure: Error>(
        _ key: Key, pin: () throws(Failure) -> PinnedMemory, _ body: (UnsafeMutableRawBufferPointer) -> Void
    ) throws(Failure) {
        let entry = if let kept = find(key) { kept } else { try fill(key, pin) }
        LockChecker.acquire(.translationUse, instance: ObjectIdentifier(self), mode: .shared)
        LockChecker.callsBack()
        unsafe body(entry.memory)
        entry.noteWrite()
        LockChecker.release(.translationUse, instance: ObjectIdentifier(self))
        leave(entry)
    }

    /// Strikes out the pages of a PASID, or of none, in a range. Those in use are unpinned when they no longer are.
    func invalidate(_ pasid: PASID?, _ range: IOVARange) {
        strikeOut { $0.pasid == pasid && $0.range.overlaps(range) }
    }

    /// Strikes out everything and waits until nothing is in use.
    func invalidateAll() {
        LockChecker.passes(through: .translationUse, instance: ObjectIdentifier(self))
        strikeOut { _ in true }
        state.wait { $0.useCount == 0 ? () : nil }
    }

    private func strikeOut(_ isMeant: (Key) -> Bool) {
        let free = state.withLock { state in
            for (number, fill) in state.fills where isMeant(fill.key) { state.fills[number]?.isStale = true }
            return state.places.keys.filter(isMeant).compactMap { state.strikeOut($0) }
        }
        for entry in free { entry.unpin() }
    }

    private func find(_ key: Key) -> Entry? {
        state.withLock { state in
            guard let place = state.places[key], let entry = state.entries[place] else { return nil }
            entry.users += 1
            entry.wasUsed = true
            state.useCount += 1
            return entry
        }
    }

    /// Pins a page. An unmap that comes meanwhile finds the fill, if not the pin, so that the page is not kept past it.
    private func fill<Failure: Error>(_ key: Key, _ pin: () throws(Failure) -> PinnedMemory) throws(Failure) -> Entry {
        let number = state.withLock { state in
            state.lastFill += 1
            state.fills[state.lastFill] = Fill(key: key)
            state.useCount += 1
            return state.lastFill
        }
        let pinned: PinnedMemory
        do throws(Failure) {
            pinned = try pin()
        } catch {
            state.update { state in
                state.fills[number] = nil
                state.useCount -= 1
            }
            throw error
        }
        let entry = Entry(key, pinned)
        let victim = state.withLock { state in
            let fill = state.fills.removeValue(forKey: number)
            return state.enter(entry, unless: fill?.isStale ?? true)
        }
        victim?.unpin()
        return entry
    }

    private func leave(_ entry: Entry) {
        let isLast = state.update { state in
            entry.users -= 1
            let isLast = entry.users == 0 && entry.isStale
            if !isLast { state.useCount -= 1 }
            return isLast
        }
        guard isLast else { return }
        entry.unpin()
        state.update { $0.useCount -= 1 }
    }
}

extension TranslationCache.State {
    /// Strikes an entry out, and returns it if the caller has to unpin it.
    fileprivate mutating func strikeOut(_ key: TranslationCache.Key) -> TranslationCache.Entry? {
        guard let place = places.removeValue(forKey: key), let entry = entries[place] else { return nil }
        entries[place] = nil
        entry.isStale = true
        return entry.users == 0 ? entry : nil
    }

    /// Enters a page, unless it must not be kept, another thread has entered it, or every entry is in use. Returns what had
    /// to make room and is to be unpinned.
    fileprivate mutating func enter(
        _ entry: TranslationCache.Entry, unless isUnmapped: Bool
    ) -> TranslationCache.Entry? {
        guard !isUnmapped, places[entry.key] == nil, let place = placeToUse() else {
            entry.isStale = true
            return nil
        }
        let victim = entries[place].flatMap { strikeOut($0.key) }
        entries[place] = entry
        places[entry.key] = place
        return victim
    }

    /// A free place, or one that nobody uses and has not used since the hand went by last.
    private mutating func placeToUse() -> Int? {
        for _ in 0..<(2 * entries.count) {
            let place = hand
            hand = (hand + 1) % entries.count
            guard let entry = entries[place] else { return place }
            if entry.users > 0 { continue }
            if !entry.wasUsed { return place }
            entry.wasUsed = false
        }
        return nil
    }
}
