import VFIOUserCheck

/// What QEMU says when it opens a device, as scripts.
///
/// The messages are those of QEMU 11.1.3, from connecting to the reset of the machine, rebuilt field by field.
public enum Conversations {
    /// By name, one for each device.
    public static var all: [(String, [UInt8])] {
        ServedDevice.Kind.allCases.map { ("qemu-\($0)", script(of: opening(of: $0), device: UInt8($0.rawValue))) }
    }

    private struct Step {
        let command: UInt16
        let payload: [UInt8]
        var kind: GuestFiles.Kind?

        init(_ command: UInt16, _ payload: [UInt8], _ kind: GuestFiles.Kind? = nil) {
            self.command = command
            self.payload = payload
            self.kind = kind
        }
    }

    /// Every step is the one that sends bytes as they are; the session itself opens with nothing.
    private static func script(of steps: [Step], device: UInt8) -> [UInt8] {
        var script: [UInt8] = [device, 0, 200]
        for (number, step) in steps.enumerated() {
            let bytes = message(step.command, id: UInt16(number), step.payload)
            script.append(0)
            script.append(UInt64(bytes.count), byteCount: 2)
            script.append(step.kind.map { UInt8(128 + $0.rawValue) } ?? 0)
            script += bytes
            script.append(0)
        }
        return script
    }

    private static func read(_ offset: UInt64, _ count: UInt32) -> Step {
        Step(Number.readRegion, bytes(.u64(offset), .u32(7), .u32(count)))
    }

    private static func write(_ offset: UInt64, _ data: [UInt8]) -> Step {
        Step(Number.writeRegion, bytes(.u64(offset), .u32(7), .u32(UInt32(data.count)), .raw(data)))
    }

    private static func map(_ address: UInt64, _ size: UInt64, _ offset: UInt64, _ kind: GuestFiles.Kind?) -> Step {
        let rights: UInt32 = kind == nil ? 1 : 3
        return Step(
            Number.mapDMA, bytes(.u32(32), .u32(rights), .u64(offset), .u64(address), .u64(size)), kind)
    }

    private static func interrupts(_ flags: UInt32, _ index: UInt32, _ count: UInt32, _ kind: GuestFiles.Kind?) -> Step
    {
        Step(Number.setInterrupts, bytes(.u32(20), .u32(flags), .u32(index), .u32(0), .u32(count)), kind)
    }

    private static func opening(of device: ServedDevice.Kind) -> [Step] {
        // QEMU asks a device for no interrupt that it does not have.
        let hasMessagesOnly = device == .copyEngine
        func unlessMessagesOnly(_ steps: Step...) -> [Step] { hasMessagesOnly ? [] : steps }
        var steps = [
            Step(Number.version, versionPayload(qemuCapabilities)),
            map(0, 0x8000, 0, .memory), map(0xfffc_0000, 0x40000, 0, nil), map(0x10_0000, 0x8000, 0x8000, .memory),
            Step(Number.getDeviceInfo, bytes(.u32(16), .zeros(12))),
        ]
        for index in [0, 1, 2, 3, 4, 5, 7] as [UInt32] {
            steps.append(Step(Number.getRegionInfo, bytes(.u32(32), .u32(0), .u32(index), .zeros(20))))
        }
        steps += [
            Step(Number.getInterruptInfo, bytes(.u32(16), .u32(0), .u32(3), .u32(0))),
            read(0, 256), read(0x30, 4), write(0x30, bytes(.u32(0xffff_f800))), read(0x30, 4),
            write(0x30, bytes(.u32(0))), read(0x10, 4), read(0x3d, 1),
        ]
        steps += unlessMessagesOnly(interrupts(0x24, 0, 1, .counter))
        steps.append(interrupts(0x24, 3, 1, .secondCounter))
        steps += unlessMessagesOnly(interrupts(0x21, 0, 0, nil))
        steps += [read(4, 2), write(4, bytes(.u16(0))), Step(Number.resetDevice, [])]
        steps += unlessMessagesOnly(interrupts(0x24, 0, 1, .counter))
        for bar in 0..<6 as Range<UInt64> { steps.append(write(0x10 + 4 * bar, bytes(.u32(0)))) }
        steps += [
            write(0x10, bytes(.u32(0xffff_ffff))), read(0x10, 4), write(0x10, bytes(.u32(0xfe00_0000))),
            write(4, bytes(.u16(0x0103))), write(4, bytes(.u16(0x0107))),
        ]
        steps += unlessMessagesOnly(interrupts(0x21, 0, 0, nil), interrupts(0x24, 1, 1, .counter))
        return steps + [
            interrupts(0x24, 2, 1, nil), interrupts(0x24, 2, 1, .secondCounter),
            Step(Number.unmapDMA, bytes(.u32(24), .u32(0), .u64(0), .u64(0x8000))),
            Step(Number.unmapDMA, bytes(.u32(24), .u32(2), .u64(0), .u64(0))),
        ]
    }
}
