import ArgumentParser
import Configuration
import CopyEngine
import DeviceModel
import LinuxHost
import PCI

/// `outboard serve copy-engine`
struct ServeCopyEngine: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "copy-engine",
        abstract: "Copies memory in address spaces of its driver's, by PASID, with page requests.")

    @OptionGroup var common: ServeOptions

    @Option(
        help: .init(
            "PASIDs are below this number, 2 to 1048576; an address space takes 20 KiB. (default: 1024)", valueName: "n"
        ))
    var pasids: Int?

    @Option(
        help: .init(
            "How many pieces of work are under way at a time, those that wait for pages among them, 1 to 64. (default: 4)",
            valueName: "n"))
    var workers: Int?

    @Option(
        help: .init(
            "How long a page request waits for the driver's answer, 1 to 3600 seconds. (default: 10)",
            valueName: "seconds"))
    var pageTimeout: Int?

    @Option(
        help: .init(
            "How many mappings all address spaces have together, 1 to 16777216. (default: 1048576)", valueName: "n"))
    var maxMappings: Int?

    func validate() throws {
        try check(pasids, CopyEngineOptions.pasidCounts, "--pasids")
        try check(workers, CopyEngineOptions.workerCounts, "--workers")
        try check(pageTimeout, CopyEngineOptions.pageTimeouts, "--page-timeout")
        try check(maxMappings, CopyEngineOptions.mappingCounts, "--max-mappings")
    }

    private func check(_ value: Int?, _ range: ClosedRange<Int>, _ option: String) throws {
        if let value, !range.contains(value) {
            throw ValidationError("\(option) takes \(range.lowerBound) to \(range.upperBound)")
        }
    }

    func run() throws {
        let file = try common.configuration(of: "copy-engine")
        var options = CopyEngineOptions()
        if case .copyEngine(let fromFile)? = file?.device { options = fromFile }
        options.pasids = pasids ?? options.pasids
        options.workers = workers ?? options.workers
        options.pageTimeout = pageTimeout ?? options.pageTimeout
        options.maxMappings = maxMappings ?? options.maxMappings
        try common.serve(options, file)
    }
}

extension ServeOptions {
    func serve(_ options: CopyEngineOptions, _ file: DeviceConfiguration?) throws {
        try serve("copy-engine", file) { (identity) throws(Errno) in
            try options.makeDevice(route: identity.makeDirectRoute())
        }
    }
}

extension CopyEngineOptions {
    func makeDevice(route: any DMARoute) throws(Errno) -> any Device {
        var options = CopyEngine.Options()
        if let pasids { options.pasidLimit = pasids }
        if let workers { options.workers = workers }
        if let pageTimeout { options.pageTimeout = .seconds(pageTimeout) }
        if let maxMappings { options.maximumMappings = maxMappings }
        return try CopyEngine.makeFunction(options, route: route)
    }
}
