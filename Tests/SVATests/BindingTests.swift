import DMA
import Glibc
import LinuxHost
import SVA
import Testing

@Suite struct `Binding devices to contexts` {
    let system: System

    init() throws { system = try System() }

    @Test func `R93 a device that was removed is not bound`() throws {
        let process = try system.process()
        let device = try system.device()
        device.remove()
        #expect(errorOf { () throws(DMAError) in _ = try device.bind(process.context) } == .noDevice)
        #expect(process.context.pasid == nil)
        #expect(errorOf { () throws(DMAError) in try device.attach(process.space) } == .noDevice)
        #expect(errorOf { () throws(DMAError) in try device.start() } == .noDevice)
    }

    @Test func `R94, R103, R110 each context has a PASID of its own from its first bind on`() throws {
        let processes = try [system.process(mark: 11), system.process(mark: 22)]
        let device = try system.device()
        #expect(processes.map(\.context.pasid) == [nil, nil])
        let handles = try processes.map { try device.bind($0.context) }
        #expect(handles.map(\.pasid) == [pasid(1), pasid(2)])
        #expect(processes.map(\.context.pasid) == [pasid(1), pasid(2)])
        #expect(handles[0] !== handles[1])
        #expect(device.mark(pasid(1)) == .success(11))
        #expect(device.mark(pasid(2)) == .success(22))
        try handles[0].unbind()
        #expect(handles.map(\.pasid) == [nil, pasid(2)])
        #expect(device.mark(pasid(1)) == .failure(.memory(.notFound)))
        #expect(device.mark(pasid(2)) == .success(22))
        device.remove()
    }

    @Test func `R94 a context for which the device has no PASID left is not bound`() throws {
        let device = try system.device { $0.maximumPASIDs = 3 }
        let processes = try (0..<3).map { _ in try system.process() }
        _ = try device.bind(processes[0].context)
        _ = try device.bind(processes[1].context)
        #expect(errorOf { () throws(DMAError) in _ = try device.bind(processes[2].context) } == .noSpace)
        #expect(processes[2].context.pasid == nil)
        #expect(processes[2].context.domainCount == 0)
        #expect(system.pasids.pasidCount == 2)
        device.remove()
    }

    @Test func `R95 a context whose PASID the device cannot use is not bound`() throws {
        let wide = try system.device()
        let narrow = try system.device { $0.maximumPASIDs = 2 }
        let processes = try (0..<2).map { _ in try system.process() }
        for process in processes { _ = try wide.bind(process.context) }
        _ = try narrow.bind(processes[0].context)
        #expect(errorOf { () throws(DMAError) in _ = try narrow.bind(processes[1].context) } == .overflow)
        #expect(processes[1].context.deviceCount == 1)
        wide.remove()
        narrow.remove()
    }

    @Test func `R96 a context that has exited, or belongs to another space of PASIDs, is not bound`() throws {
        let device = try system.device()
        let gone = try system.process()
        gone.context.exit()
        gone.context.exit()
        #expect(!gone.context.isAlive)
        #expect(errorOf { () throws(DMAError) in _ = try device.bind(gone.context) } == .invalid)
        let foreign = try Process(PASIDSpace())
        #expect(errorOf { () throws(DMAError) in _ = try device.bind(foreign.context) } == .invalid)
        #expect(system.pasids.pasidCount == 0)
        device.remove()
    }

    @Test func `R97, R101 the same two again are the same handle, and only the last unbind detaches`() throws {
        let process = try system.process(mark: 5)
        let device = try system.device()
        let handle = try device.bind(process.context)
        #expect(try device.bind(process.context) === handle)
        #expect(handle.users == 2)
        #expect(process.context.deviceCount == 1)
        #expect(system.record.count { $0 == .attached(pasid(1)) } == 1)
        try handle.unbind()
        #expect(handle.users == 1)
        #expect(device.mark(pasid(1)) == .success(5))
        try handle.unbind()
        #expect(handle.users == 0)
        #expect(process.context.domainCount == 0)
        #expect(system.record.count { $0 == .detached(pasid(1)) } == 1)
        #expect(device.mark(pasid(1)) == .failure(.memory(.notFound)))
        device.remove()
    }

    @Test func `R98 a PASID that something else is attached to is busy`() throws {
        let process = try system.process()
        let other = try system.process(mark: 7)
        try other.map(0)
        let device = try system.device()
        try device.attach(other.space, to: pasid(1))
        #expect(errorOf { () throws(DMAError) in _ = try device.bind(process.context) } == .busy)
        #expect(process.context.domainCount == 0)
        #expect(device.mark(pasid(1)) == .success(7))
        try device.detach(from: pasid(1))
        let handle = try device.bind(process.context)
        #expect(handle.pasid == pasid(1))
        #expect(errorOf { () throws(DMAError) in try device.attach(other.space, to: pasid(1)) } == .busy)
        device.remove()
    }

    @Test func `R99 devices behind one queue share a domain, one behind another has its own`() throws {
        let process = try system.process()
        let otherQueue = try FaultQueue()
        let devices = try [system.device(), system.device(), system.device(queue: otherQueue)]
        let handles = try devices.map { try $0.bind(process.context) }
        #expect(process.context.domainCount == 2)
        #expect(process.context.deviceCount == 3)
        try handles[0].unbind()
        #expect(process.context.domainCount == 2)
        try handles[1].unbind()
        #expect(process.context.domainCount == 1)
        #expect(devices[2].mark(pasid(1)) == .success(1))
        for device in devices { device.remove() }
        otherQueue.stop()
    }

    @Test func `R100, R108 a device without PASIDs binds and attaches none`() throws {
        let process = try system.process()
        let device = try system.device { $0.maximumPASIDs = 0 }
        #expect(errorOf { () throws(DMAError) in _ = try device.bind(process.context) } == .notSupported)
        let error = errorOf { () throws(DMAError) in try device.attach(process.space, to: pasid(1)) }
        #expect(error == .notSupported)
        #expect(process.context.pasid == nil)
        try device.attach(process.space)
        device.remove()
    }

    @Test func `R100 an attachment that is refused leaves nothing behind but the PASID`() throws {
        let process = try system.process()
        // Devices pin whole pages, and this is less than one.
        try process.space.map(.file(process.object, offset: 0), at: iova(0), byteCount: 512, rights: .read)
        let device = try system.device()
        #expect(errorOf { () throws(DMAError) in _ = try device.bind(process.context) } == .addressInUse)
        #expect(process.context.domainCount == 0)
        #expect(process.context.pasid == pasid(1))
        try process.space.unmap(.everything)
        #expect(try device.bind(process.context).users == 1)
        device.remove()
    }

    @Test func `R101, R102 unbinding a device leaves the others of the context alone`() throws {
        let process = try system.process(mark: 9)
        let devices = try [system.device(), system.device()]
        let handles = try devices.map { try $0.bind(process.context) }
        #expect(handles[0] !== handles[1])
        #expect(process.context.domainCount == 1)
        #expect(process.context.deviceCount == 2)
        try handles[0].unbind()
        #expect(process.context.deviceCount == 1)
        #expect(devices[0].mark(pasid(1)) == .failure(.memory(.notFound)))
        #expect(devices[1].mark(pasid(1)) == .success(9))
        #expect(system.record.count { $0 == .domainFreed(pasid(1)) } == 0)
        try handles[1].unbind()
        #expect(process.context.domainCount == 0)
        #expect(system.record.count { $0 == .domainFreed(pasid(1)) } == 1)
        for device in devices { device.remove() }
    }

    @Test func `R104 of many binds and unbinds at once one attaches and one detaches`() throws {
        let process = try system.process(mark: 3)
        let device = try system.device()
        let threadCount = 8
        let bound = Shared(0)
        let failures = Shared<[String]>([])
        let threads = try (0..<threadCount).map { number in
            try OSThread(name: "binder \(number)") {
                do throws(DMAError) {
                    let handle = try device.bind(process.context)
                    bound.update { $0 += 1 }
                    bound.wait { $0 == threadCount }
                    // This thread's own bind is enough for its accesses, however many others are undone meanwhile.
                    let mark = device.mark(pasid(1))
                    if mark != .success(3) { failures.update { $0.append("\(mark)") } }
                    try handle.unbind()
                } catch {
                    failures.update { $0.append("\(error)") }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.value == [])
        #expect(system.record.count { $0 == .attached(pasid(1)) } == 1)
        #expect(system.record.count { $0 == .detached(pasid(1)) } == 1)
        #expect(process.context.domainCount == 0)
        device.remove()
    }

    @Test func `R105 a context keeps its PASID until nobody refers to it`() throws {
        let device = try system.device()
        do {
            let process = try system.process()
            try device.bind(process.context).unbind()
            let other = try system.process()
            #expect(try device.bind(other.context).pasid == pasid(2))
            #expect(try device.bind(process.context).pasid == pasid(1))
            device.remove()
            #expect(system.pasids.pasidCount == 2)
        }
        #expect(system.pasids.pasidCount == 0)
    }

    @Test func `R106, S11 a context that exits while it is bound makes faults invalid and keeps its PASID`() throws {
        let process = try system.process(mark: 4)
        let device = try system.device()
        let handle = try device.bind(process.context)
        #expect(device.mark(pasid(1), page: 0) == .success(4))
        process.context.exit()
        #expect(device.mark(pasid(1), page: 1) == .failure(.refused))
        #expect(process.pager.askedPages == [0])
        #expect(device.mark(pasid(1), page: 0) == .success(4), "what is mapped stays so until its owner unmaps it")
        #expect(handle.pasid == pasid(1))
        #expect(system.pasids.pasidCount == 1)
        try handle.unbind()
        #expect(system.pasids.pasidCount == 0)
        #expect(process.context.pasid == nil)
        #expect(try device.bind(system.process().context).pasid == pasid(1))
        device.remove()
    }

    @Test func `R106 the end of a context waits for the fault that is being handled`() throws {
        let isReleased = Shared(false)
        let order = Shared<[String]>([])
        let process = try system.process(mark: 4) { _ in
            isReleased.wait { $0 }
            order.update { $0.append("handled") }
        }
        let device = try system.device()
        _ = try device.bind(process.context)
        let result = Shared<Result<UInt8, AccessFailure>?>(nil)
        let reader = try OSThread(name: "reader") {
            let mark = device.mark(pasid(1))
            result.update { $0 = mark }
        }
        process.pager.waitUntilAsked()
        let closer = try OSThread(name: "closer") {
            process.context.exit()
            order.update { $0.append("ended") }
        }
        while process.context.isAlive {}
        isReleased.update { $0 = true }
        closer.join()
        reader.join()
        #expect(order.value == ["handled", "ended"])
        #expect(result.value == .success(4))
        #expect(device.mark(pasid(1), page: 1) == .failure(.refused))
        device.remove()
    }

    @Test func `R107, R132, S12 the last unbind flushes, clears the PASID, and then frees the domain`() throws {
        let isReleased = Shared(false)
        let process = try system.process { _ in isReleased.wait { $0 } }
        let device = try system.device()
        let handle = try device.bind(process.context)
        let reader = try OSThread(name: "reader") { _ = device.mark(pasid(1)) }
        process.pager.waitUntilAsked()
        let isUnbound = Shared(false)
        let unbinder = try OSThread(name: "unbinder") {
            #expect(errorOf { () throws(DMAError) in try handle.unbind() } == nil)
            isUnbound.update { $0 = true }
        }
        // While the unbind waits, nothing that faults now is handled any more.
        while device.faultRoute(for: pasid(1)) != nil {}
        #expect(!isUnbound.value)
        #expect(system.record.count { $0 == .detached(pasid(1)) } == 0)
        isReleased.update { $0 = true }
        unbinder.join()
        reader.join()
        #expect(
            system.record.steps == [
                .started, .attached(pasid(1)), .flushed(isComplete: true), .detached(pasid(1)), .domainFreed(pasid(1)),
            ])
        #expect(system.record.unbalanced.isEmpty)
        device.remove()
    }

    @Test func `R132 the last unbind waits for the faults of its own context, and for no others`() throws {
        let isReleased = Shared(false)
        let slow = try system.process { _ in isReleased.wait { $0 } }
        let quick = try system.process()
        let device = try system.device()
        let handles = try [slow, quick].map { try device.bind($0.context) }
        let reader = try OSThread(name: "reader") { #expect(device.mark(pasid(1)) == .success(1)) }
        slow.pager.waitUntilAsked()
        #expect(device.mark(pasid(2)) == .success(1))
        try handles[1].unbind()
        #expect(system.record.steps.suffix(3).first == .flushed(isComplete: true))
        isReleased.update { $0 = true }
        reader.join()
        try handles[0].unbind()
        device.remove()
    }

    @Test func `R108 a PASID past the limit, or one that is attached, is not attached`() throws {
        let process = try system.process()
        let device = try system.device { $0.maximumPASIDs = 4 }
        #expect(errorOf { () throws(DMAError) in try device.attach(process.space, to: pasid(4)) } == .invalid)
        try device.attach(process.space, to: pasid(3))
        #expect(errorOf { () throws(DMAError) in try device.attach(process.space, to: pasid(3)) } == .busy)
        try device.attach(process.space)
        #expect(errorOf { () throws(DMAError) in try device.attach(process.space) } == .busy)
        #expect(errorOf { () throws(DMAError) in try device.detach(from: pasid(2)) } == .invalid)
        try device.detach()
        #expect(errorOf { () throws(DMAError) in try device.detach() } == .invalid)
        device.remove()
    }

    @Test func `R108 a binding is not the device owner's to detach or replace`() throws {
        let process = try system.process(mark: 6)
        let device = try system.device()
        _ = try device.bind(process.context)
        #expect(errorOf { () throws(DMAError) in try device.detach(from: pasid(1)) } == .invalid)
        #expect(errorOf { () throws(DMAError) in try device.replace(with: process.space, at: pasid(1)) } == .invalid)
        #expect(device.mark(pasid(1)) == .success(6))
        device.remove()
    }

    @Test func `R109 a replacement that fails leaves what was attached`() throws {
        let processes = try [system.process(mark: 1), system.process(mark: 2)]
        for process in processes { try process.map(0) }
        let device = try system.device()
        try device.attach(processes[0].space, to: pasid(1))
        try processes[1].space.map(
            .file(processes[1].object, offset: 0), at: iova(64 * page), byteCount: 512, rights: .read)
        let error = errorOf { () throws(DMAError) in try device.replace(with: processes[1].space, at: pasid(1)) }
        #expect(error == .addressInUse)
        #expect(device.mark(pasid(1)) == .success(1))
        try processes[1].space.unmap(bytes(512, ofPage: 64))
        try device.replace(with: processes[1].space, at: pasid(1))
        #expect(device.mark(pasid(1)) == .success(2))
        #expect(errorOf { () throws(DMAError) in try device.replace(with: processes[0].space) } == .invalid)
        device.remove()
    }

    @Test(arguments: [true, false])
    func `R109 an access that meets a replacement waits for it`(isAskedFor: Bool) throws {
        let processes = try [system.process(mark: 1), system.process(mark: 2)]
        for process in processes { try process.map(0) }
        let box = Shared<PinBox?>(nil)
        let isMoving = Shared(false)
        let device = SVADevice(in: system.pasids, faultQueue: system.queue, trace: system.record.sink) { _, range in
            guard range == .everything else { return }
            isMoving.update { $0 = true }
        }
        try device.start()
        let handler = GroupKeeper { $0.respond(.success) }
        try device.attach(processes[0].space, to: pasid(1), handler: isAskedFor ? handler : nil)
        let pinned = PinBox(try device.pin(pages(0), pasid: pasid(1), rights: .read))
        box.update { $0 = pinned }
        let mover = try OSThread(name: "mover") {
            var error: DMAError?
            keepingPins {
                repeat {
                    error = errorOf { () throws(DMAError) in
                        try device.replace(
                            with: processes[1].space, at: pasid(1), handler: isAskedFor ? handler : nil)
                    }
                } while error == .deadlock
            }
            #expect(error == nil)
        }
        isMoving.wait { $0 }
        let results = Shared<[Result<UInt8, AccessFailure>]>([])
        let reader = try OSThread(name: "reader") {
            let mark = device.mark(pasid(1))
            results.update { $0.append(mark) }
        }
        // Time for an access that does not wait to fail; one that does has all the time it needs.
        for _ in 0..<100 { sched_yield() }
        box.update { $0.take() }?.unpin()
        mover.join()
        reader.join()
        #expect(results.value == [.success(2)] || results.value == [.success(1)])
        #expect(handler.groups.isEmpty)
        #expect(device.mark(pasid(1)) == .success(2))
        device.remove()
    }

    @Test func `R109 an access does not wait for ever for a replacement`() throws {
        let process = try system.process()
        let isReleased = Shared(false)
        let isMoving = Shared(false)
        var configuration = SVADevice.Configuration()
        configuration.requestPatience = .milliseconds(10)
        let device = SVADevice(configuration, in: system.pasids, faultQueue: system.queue) { _ in
        } onUnmap: { _, _ in
            isMoving.update { $0 = true }
            isReleased.wait { $0 }
        }
        try device.start()
        try device.attach(process.space, to: pasid(1))
        let mover = try OSThread(name: "mover") {
            keepingPins {
                #expect(
                    errorOf { () throws(DMAError) in try device.replace(with: IOAddressSpace(), at: pasid(1)) } == nil)
            }
        }
        isMoving.wait { $0 }
        #expect(device.mark(pasid(1)) == .failure(.timedOut))
        isReleased.update { $0 = true }
        mover.join()
        device.remove()
    }

    @Test func `R109 nothing is bound or attached while the device is reset`() throws {
        let process = try system.process()
        let device = try system.device()
        try device.attach(process.space, to: pasid(9))
        var errors: [DMAError?] = []
        device.reset {
            errors.append(errorOf { () throws(DMAError) in _ = try device.bind(process.context) })
            errors.append(errorOf { () throws(DMAError) in try device.attach(process.space) })
            errors.append(errorOf { () throws(DMAError) in try device.replace(with: process.space, at: pasid(9)) })
            errors.append(errorOf { () throws(DMAError) in try device.start() })
        }
        #expect(errors == [.busy, .busy, .busy, .busy])
        try device.attach(process.space)
        device.remove()
    }

    @Test func `nobody can end an attachment before the record has it, nor begin one before it has the last one's end`()
        throws
    {
        let own = Shared<SVADevice?>(nil)
        let errors = Shared<[DMAError?]>([])
        let space = IOAddressSpace()
        let device = SVADevice(
            in: system.pasids, faultQueue: system.queue,
            trace: { event in
                guard let device = own.value else { return }
                let error: DMAError?
                switch event {
                case .attached, .replaced:
                    error = errorOf { () throws(DMAError) in try device.detach(from: pasid(1)) }
                case .detached:
                    error = errorOf { () throws(DMAError) in try device.attach(space, to: pasid(1)) }
                default: return
                }
                errors.update { $0.append(error) }
            })
        own.update { $0 = device }
        try device.attach(space, to: pasid(1))
        try device.replace(with: IOAddressSpace(), at: pasid(1))
        try device.detach(from: pasid(1))
        #expect(errors.value == [.busy, .busy, .busy])
        own.update { $0 = nil }
        device.remove()
    }

    @Test func `an unbind that meets pins fails and leaves the binding`() throws {
        let process = try system.process(mark: 8)
        let device = try system.device()
        let handle = try device.bind(process.context)
        let pin = PinBox(try device.pin(pages(0), pasid: pasid(1), rights: .read))
        keepingPins { #expect(errorOf { () throws(DMAError) in try handle.unbind() } == .deadlock) }
        #expect(handle.users == 1)
        #expect(device.mark(pasid(1), page: 3) == .success(8))
        pin.unpin()
        try handle.unbind()
        #expect(handle.users == 0)
        device.remove()
    }

    @Test func `a handle that is unbound once too often traps, but not after the removal of its device`() async throws {
        let process = try system.process()
        let device = try system.device()
        let handle = try device.bind(process.context)
        device.remove()
        try handle.unbind()
        #expect(handle.users == 0)
        await #expect(processExitsWith: .failure) {
            let system = try System()
            let device = try system.device()
            let handle = try device.bind(system.process().context)
            try handle.unbind()
            try handle.unbind()
        }
    }

    @Test func `a PASID that the driver has chosen is the context's if it is free`() throws {
        let pasids = PASIDSpace()
        let space = IOAddressSpace()
        let pager = try ObjectPager(.anonymous(byteCount: Int(page)))
        let context = try AddressSpaceContext(space, pager: pager, in: pasids, as: pasid(77))
        #expect(context.pasid == pasid(77))
        let error = errorOf { () throws(DMAError) in
            _ = try AddressSpaceContext(space, pager: pager, in: pasids, as: pasid(77))
        }
        #expect(error == .busy)
        let device = SVADevice(in: pasids)
        #expect(try device.bind(context).pasid == pasid(77))
        context.exit()
        device.remove()
        #expect(pasids.pasidCount == 0)
    }
}
