import ArgumentParser
import Configuration
import Glibc
import LinuxHost
import PCITopology

/// `outboard viot`
struct Viot: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Write the ACPI table that tells a guest which devices of a topology are behind its IOMMU.",
        discussion: """
            The table is what QEMU's -acpitable file=FILE takes. It goes to standard output unless --output says otherwise.
            """)

    @Option(help: .init("The topology, as outboard serve takes it.", valueName: "file"))
    var config: String

    @Option(help: .init("Write the table to this file, in place of what it holds.", valueName: "file"))
    var output: String?

    @Flag(help: "Print what the table says, a line for each of its nodes, instead of its bytes.")
    var text = false

    func validate() throws {
        if text && output != nil { throw ValidationError("--text and --output exclude each other") }
        if !text && output == nil && isatty(FileOutput.standardOutput.rawValue) != 0 {
            throw ValidationError("a table is nothing for a terminal: --output FILE, --text, or a pipe")
        }
    }

    func run() throws {
        guard case .topology(let topology) = try ConfigurationFile(path: config) else {
            throw Failure(message: "\(config): describes a device, not a topology")
        }
        let table = VIOT(iommu: topology.iommu.address, endpoints: topology.endpoints)
        if text {
            FileOutput.standardOutput.write(table.text)
        } else if let output {
            try replaceContents(ofPath: output, with: table.bytes)
        } else {
            FileOutput.standardOutput.write(table.bytes)
        }
    }

    /// - Throws: `Failure`, also when the path leads to anything but a regular file.
    private func replaceContents(ofPath path: String, with bytes: [UInt8]) throws {
        do throws(Errno) {
            let file = try openOrCreate(path)
            guard try file.status().kind == .regular else { throw .invalidArgument }
            try file.resize(to: 0)
            try file.write(bytes)
        } catch {
            throw Failure(message: "\(path): \(error)")
        }
    }

    private func openOrCreate(_ path: String) throws(Errno) -> StorageFile {
        do throws(Errno) {
            return try StorageFile(openingPath: path, isWritable: true)
        } catch {
            guard error == .noSuchEntry else { throw error }
            return try StorageFile(creatingPath: path)
        }
    }
}
