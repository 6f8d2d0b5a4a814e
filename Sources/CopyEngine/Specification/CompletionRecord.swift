import DMA
import SVA

/// What the device writes when a command or a piece of work has completed.
///
///     0 status | 1 operand | 2 zero | 4 error | 8 tag | 16 bytes | 24 fault address
struct CompletionRecord: Sendable {
    static let byteCount = 32

    enum Status: UInt8, Sendable {
        case success = 1
        case invalidDescriptor = 2
        case invalidRange = 3
        case overlap = 4
        case noAddressSpace = 5
        case refused = 6
        case notMapped = 7
        case pageRefused = 8
        case pageRequestsFailed = 9
        case tooManyFaults = 10
        case noMemory = 11
        case aborted = 12
    }

    /// What the fault address is about.
    enum Operand: UInt8, Sendable {
        case none = 0
        case source = 1
        case address = 2
    }

    let tag: UInt64
    /// How many bytes were transferred, or unmapped.
    let bytes: UInt64
    /// `nil` for success.
    let failure: EngineFailure?

    /// The record as it lies in memory. The first byte is the one that the driver waits for.
    var contents: InlineArray<32, UInt8> {
        let words: InlineArray<4, UInt64> = [
            UInt64((failure?.status ?? .success).rawValue) | UInt64((failure?.operand ?? .none).rawValue) << 8
                | UInt64(UInt32(bitPattern: failure?.error ?? 0)) << 32,
            tag, bytes, failure?.faultAddress ?? 0,
        ]
        return InlineArray { UInt8(truncatingIfNeeded: words[$0 / 8] >> UInt64($0 % 8 * 8)) }
    }
}

/// Why a command or a piece of work came to nothing, as its completion record says it.
struct EngineFailure: Error, Sendable {
    let status: CompletionRecord.Status
    /// A Linux error number; zero when the status says it all.
    let error: Int32
    let operand: CompletionRecord.Operand
    let faultAddress: UInt64

    init(
        _ status: CompletionRecord.Status, _ error: DMAError? = nil, about operand: CompletionRecord.Operand = .none,
        at faultAddress: IOVA? = nil
    ) {
        self.status = status
        self.error = error?.errno ?? 0
        self.operand = operand
        self.faultAddress = faultAddress?.rawValue ?? 0
    }

    static let invalidDescriptor = EngineFailure(.invalidDescriptor)
    static let overlap = EngineFailure(.overlap)
    static let aborted = EngineFailure(.aborted)

    /// - Parameter address: finds the first address that could not be reached.
    init(_ failure: AccessFailure, about operand: CompletionRecord.Operand, at address: () -> IOVA) {
        switch failure {
        case .memory(let error) where error == .notFound || error == .notPermitted || error == .invalid:
            self.init(.notMapped, error, about: operand, at: address())
        case .memory(let error): self.init(.noMemory, error, about: operand, at: address())
        case .refused: self.init(.pageRefused, about: operand, at: address())
        case .timedOut: self.init(.pageRefused, .other(errno: 110), about: operand, at: address())
        case .failed: self.init(.pageRequestsFailed, about: operand, at: address())
        case .tooManyFaults: self.init(.tooManyFaults, about: operand, at: address())
        case .stopped: self = .aborted
        }
    }
}
