import Edu
import LinuxHost
import VFIOUserClient

/// The error that `body` throws, `nil` when it throws none.
func errorOf(_ body: () throws(ClientError) -> Void) -> ClientError? {
    do throws(ClientError) {
        try body()
        return nil
    } catch {
        return error
    }
}

/// `count` bytes of a recognisable pattern.
func pattern(_ count: Int, seed: Int = 1) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8 &+ seed) }
}

/// Edu's registers, by QEMU's `docs/specs/edu.rst`.
enum EduOffset {
    static let identification: UInt64 = 0x00
    static let liveness: UInt64 = 0x04
    static let factorial: UInt64 = 0x08
    static let status: UInt64 = 0x20
    static let interruptRaise: UInt64 = 0x60
    static let interruptAcknowledge: UInt64 = 0x64
    static let dmaSource: UInt64 = 0x80
    static let dmaDestination: UInt64 = 0x88
    static let dmaCount: UInt64 = 0x90
    static let dmaCommand: UInt64 = 0x98
    static let memory: UInt64 = 0x40000
}

/// A driver of edu over a client.
struct EduDriver {
    let client: Client

    func enableBusMaster() throws {
        try client.writeRegister(UInt16(6), region: 7, at: 4)
    }

    /// Moves bytes from an address into the device, and waits until they are there.
    func read(from address: UInt64, byteCount: Int) throws {
        try transfer(source: address, destination: EduOffset.memory, byteCount, command: 1)
        try waitForTransfer()
    }

    /// Moves bytes from the device to an address, and waits until they are there.
    func write(to address: UInt64, byteCount: Int) throws {
        try transfer(source: EduOffset.memory, destination: address, byteCount, command: 3)
        try waitForTransfer()
    }

    func transfer(source: UInt64, destination: UInt64, _ byteCount: Int, command: UInt64) throws {
        try client.writeRegister(source, region: 0, at: EduOffset.dmaSource)
        try client.writeRegister(destination, region: 0, at: EduOffset.dmaDestination)
        try client.writeRegister(UInt64(byteCount), region: 0, at: EduOffset.dmaCount)
        try client.writeRegister(command, region: 0, at: EduOffset.dmaCommand)
    }

    /// The client serves the device's requests while it asks.
    func waitForTransfer() throws {
        while try client.readRegister(UInt64.self, region: 0, at: EduOffset.dmaCommand) & 1 != 0 {}
    }
}
