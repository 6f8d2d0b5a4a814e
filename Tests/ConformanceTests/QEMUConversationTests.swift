import Edu
import LinuxHost
import Testing
import VFIOUserCheck

/// What QEMU says when it opens a device, and how much room it has for each answer: the size of its request, but for the
/// three commands whose answers carry data. A longer one would leave bytes in its stream and kill the device.
@Suite struct QEMUConversation {
    private struct Step {
        let command: UInt16
        let payload: [UInt8]
        var descriptors: [Int32] = []

        /// The size of the buffer into which QEMU reads the reply.
        var room: Int {
            switch command {
            case Number.getRegionInfo: 16 + Int(payload.u32(at: 0))
            case Number.readRegion: 32 + Int(payload.u32(at: 12))
            case Number.deviceFeature: 16 + Int(payload.u32(at: 0))
            default: 16 + payload.count
            }
        }
    }

    private func opening(_ memory: ClientMemoryFile, _ counters: [EventCounter]) -> [Step] {
        let assign = SetFlags.descriptors | SetFlags.trigger
        var steps = [
            Step(command: Number.version, payload: Payload.version(Payload.qemuCapabilities)),
            Step(command: Number.mapDMA, payload: Payload.map(at: 0, size: 0xc0000), descriptors: [memory.number]),
            Step(command: Number.mapDMA, payload: Payload.map(at: 0xc0000, size: 0x40000, flags: 1)),
            Step(
                command: Number.mapDMA, payload: Payload.map(at: 0x100000, size: 0x100000, offset: 0x100000),
                descriptors: [memory.number]),
            Step(command: Number.getDeviceInfo, payload: Payload.deviceInfo()),
        ]
        for index in [0, 1, 2, 3, 4, 5, 7] as [UInt32] {
            steps.append(Step(command: Number.getRegionInfo, payload: Payload.regionInfo(index)))
        }
        steps += [
            Step(command: Number.getInterruptInfo, payload: Payload.interruptInfo(3)),
            Step(command: Number.readRegion, payload: Payload.read(7, at: 0, count: 256)),
            Step(command: Number.readRegion, payload: Payload.read(7, at: 0x30, count: 4)),
            Step(command: Number.writeRegion, payload: Payload.write(7, at: 0x30, bytes(.u32(0xffff_f800)))),
            Step(command: Number.readRegion, payload: Payload.read(7, at: 0x30, count: 4)),
            Step(command: Number.writeRegion, payload: Payload.write(7, at: 0x30, bytes(.u32(0)))),
            Step(command: Number.readRegion, payload: Payload.read(7, at: 0x10, count: 4)),
            Step(command: Number.readRegion, payload: Payload.read(7, at: 0x3d, count: 1)),
            Step(
                command: Number.setInterrupts, payload: Payload.setInterrupts(assign, index: 0, count: 1),
                descriptors: [counters[0].rawDescriptor]),
            Step(
                command: Number.setInterrupts, payload: Payload.setInterrupts(assign, index: 3, count: 1),
                descriptors: [counters[1].rawDescriptor]),
            // The reset of the machine.
            Step(
                command: Number.setInterrupts,
                payload: Payload.setInterrupts(SetFlags.none | SetFlags.trigger, index: 0, count: 0)),
            Step(command: Number.readRegion, payload: Payload.read(7, at: 4, count: 2)),
            Step(command: Number.writeRegion, payload: Payload.write(7, at: 4, bytes(.u16(0)))),
            Step(command: Number.resetDevice, payload: []),
        ]
        for bar in 0..<6 as Range<UInt64> {
            steps.append(
                Step(command: Number.writeRegion, payload: Payload.write(7, at: 0x10 + 4 * bar, bytes(.u32(0)))))
        }
        return steps + [
            Step(command: Number.deviceFeature, payload: Payload.feature(11, 1 << 16, argsz: 40) + bytes(.zeros(32))),
            Step(command: Number.unmapDMA, payload: Payload.unmap(at: 0, size: 0xc0000)),
            Step(command: Number.unmapDMA, payload: Payload.unmap(at: 0, size: 0, flags: 2)),
        ]
    }

    @Test func `S29 S46 S67 S90 every answer of QEMU's opening conversation fits the buffer that QEMU has for it`()
        throws
    {
        for device in 0..<3 {
            let body = { (peer: RawPeer) throws in
                let memory = try ClientMemoryFile(byteCount: 0x200000)
                let counters = try eventCounters(2)
                // The steps hold no more than the numbers of the descriptors.
                try withExtendedLifetime((memory, counters)) {
                    for step in opening(memory, counters) {
                        let reply = try peer.call(step.command, step.payload, step.descriptors)
                        #expect(reply.size <= step.room, "command \(step.command)")
                        #expect(reply.descriptors.count <= (step.command == Number.getRegionInfo ? 1 : 0))
                        #expect(reply.error == nil || step.command == Number.deviceFeature, "\(reply)")
                    }
                }
                // Asked again with the room that the first answer names.
                for index in 0..<9 as Range<UInt32> {
                    let first = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(index))
                    let room = first.payload.u32(at: 0)
                    let again = try peer.succeed(Number.getRegionInfo, Payload.regionInfo(index, argsz: room))
                    #expect(again.size == 16 + Int(room))
                }
            }
            switch device {
            case 0: try withPeer(of: Edu.makeFunction(), negotiated: false, body)
            case 1: try withPeer(of: VectorDevice.makeFunction(), negotiated: false, body)
            default: try withPeer(of: WindowDevice(), negotiated: false, body)
            }
        }
    }

    @Test func `S4 the same conversation, sent before anything is read, is answered in order`() throws {
        try withPeer(of: Edu.makeFunction(), negotiated: false) { peer in
            let memory = try ClientMemoryFile(byteCount: 0x200000)
            let counters = try eventCounters(2)
            let steps = opening(memory, counters)
            try withExtendedLifetime((memory, counters)) {
                for (number, step) in steps.enumerated() {
                    try peer.send(message(step.command, id: UInt16(number), step.payload), step.descriptors)
                }
            }
            for (number, step) in steps.enumerated() {
                let reply = try peer.receive()
                #expect(reply.id == UInt16(number) && reply.command == step.command)
                #expect(reply.error == nil || step.command == Number.deviceFeature)
            }
        }
    }
}
