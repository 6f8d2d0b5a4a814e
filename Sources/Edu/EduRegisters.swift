public import PCI

/// The registers of the educational device, in BAR 0. QEMU's `docs/specs/edu.rst`
public enum EduRegister: Hashable, Sendable {
    case identification, liveness, factorial, status, interruptStatus, interruptRaise, interruptAcknowledge
    case dmaSource, dmaDestination, dmaCount, dmaCommand

    /// Where the register is whose write starts a transfer.
    static let commandOffset = 0x98

    public static let map = RegisterMap<EduRegister>([
        .init(.identification, "Identification", at: 0x00, byteCount: 4, reset: 0x0100_00ed, .readOnly),
        .init(.liveness, "Liveness Check", at: 0x04, byteCount: 4, .readWrite, hooks: .write),
        .init(.factorial, "Factorial", at: 0x08, byteCount: 4, .readWrite, hooks: .write),
        .init(
            .status, "Status", at: 0x20, byteCount: 4,
            fields: [.init("Computing", 0, .readOnly), .init("Raise Interrupt After Factorial", 7, .readWrite)]),
        .init(.interruptStatus, "Interrupt Status", at: 0x24, byteCount: 4, .readOnly),
        .init(.interruptRaise, "Interrupt Raise", at: 0x60, byteCount: 4, .writeOnly, hooks: .write),
        .init(.interruptAcknowledge, "Interrupt Acknowledge", at: 0x64, byteCount: 4, .writeOnly, hooks: .write),
        .init(.dmaSource, "DMA Source Address", at: 0x80, byteCount: 8, .readWrite, hooks: .write),
        .init(.dmaDestination, "DMA Destination Address", at: 0x88, byteCount: 8, .readWrite, hooks: .write),
        .init(.dmaCount, "DMA Transfer Count", at: 0x90, byteCount: 8, .readWrite, hooks: .write),
        .init(
            .dmaCommand, "DMA Command", at: commandOffset, byteCount: 8,
            fields: [
                .init("Start", 0, .readWrite), .init("From Device", 1, .readWrite),
                .init("Raise Interrupt", 2, .readWrite),
            ], hooks: .write),
    ])
}

/// Bits of the status register.
enum EduStatus {
    static let computing: UInt64 = 0x01
    static let raiseInterrupt: UInt64 = 0x80
}

/// Bits of the interrupt status register that the device sets itself; the driver may raise any others.
enum EduInterrupt {
    static let factorial: UInt64 = 0x001
    static let dma: UInt64 = 0x100
}

/// Bits of the DMA command register.
enum EduDMACommand {
    static let start: UInt64 = 1 << 0
    static let fromDevice: UInt64 = 1 << 1
    static let raiseInterrupt: UInt64 = 1 << 2
}
