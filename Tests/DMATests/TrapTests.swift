import DMA
import Testing

/// Broken promises of a device's own code, which no peer can cause, end the process.
@Suite struct `Misuse` {
    @Test func `L17 a pin that is dropped traps`() async {
        await #expect(processExitsWith: .failure) {
            let access = try attachedAccess()
            _ = try access.pin(pages(0), rights: .read)
        }
    }

    @Test func `a pin that is released does not trap`() async {
        await #expect(processExitsWith: .success) {
            let access = try attachedAccess()
            try access.pin(pages(0), rights: .read).unpin()
            access.destroy()
        }
    }

    @Test func `R36 destroying an access with pins left traps`() async {
        await #expect(processExitsWith: .failure) {
            let access = try attachedAccess()
            let pinned = try access.pin(pages(0), rights: .read)
            access.destroy()
            pinned.unpin()
        }
    }

    @Test func `L3 destroying an access in its own callback traps`() async {
        await #expect(processExitsWith: .failure) {
            let access = Shared<DMAAccess?>(nil)
            let space = IOAddressSpace()
            let suicidal = DMAAccess(needsPin: false) { _ in access.value?.destroy() }
            access.update { $0 = suicidal }
            try suicidal.attach(to: space)
            try suicidal.detach()
        }
    }

    @Test func `L3 destroying an access when told of an unmap traps, were its pins gone`() async {
        await #expect(processExitsWith: .failure) {
            let access = Shared<DMAAccess?>(nil)
            let pinned = Shared<PinnedBox?>(nil)
            let space = IOAddressSpace()
            try space.map(try .anonymous(byteCount: Int(page)), pages: pages(0))
            let suicidal = DMAAccess(needsPin: true) { range in
                pinned.update { $0.take() }?.unpin()
                if range != .everything { access.value?.destroy() }
            }
            access.update { $0 = suicidal }
            try suicidal.attach(to: space)
            pinned.update { [box = PinnedBox(try? suicidal.pin(pages(0), rights: .read))] in $0 = box }
            try space.unmap(pages(0))
        }
    }

    @Test func `an unmap of memory that its own thread is looking at traps, as it would wait for itself`() async {
        await #expect(processExitsWith: .failure) {
            let space = IOAddressSpace()
            try space.map(try .anonymous(byteCount: Int(page)), pages: pages(0))
            let access = DMAAccess(needsPin: false, onUnmap: nil)
            try access.attach(to: space)
            try unsafe access.withMemory(pages(0), rights: .read) { _ in _ = try? space.unmap(pages(0)) }
        }
    }

    @Test func `a range that ends before it begins traps`() async {
        await #expect(processExitsWith: .failure) {
            _ = IOVARange(first: IOVA(2), last: IOVA(1))
        }
    }

    @Test func `a page size that is no power of two traps`() async {
        await #expect(processExitsWith: .failure) {
            var configuration = IOAddressSpace.Configuration()
            configuration.pageSize = 3000
            _ = IOAddressSpace(configuration)
        }
    }
}

private func attachedAccess() throws -> DMAAccess {
    let space = IOAddressSpace()
    try space.map(try .anonymous(byteCount: Int(page)), pages: pages(0))
    let access = DMAAccess(needsPin: true) { _ in }
    try access.attach(to: space)
    return access
}
