import ArgumentParser

/// `outboard devices`
struct Devices: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "List the devices that can be served, with their options.")

    func run() {
        for command in Serve.configuration.subcommands {
            let (name, configuration) = (command._commandName, command.configuration)
            FileOutput.standardOutput.write("\(name)\n    \(configuration.abstract)\n")
        }
    }
}
