import JSONText

/// What a configuration file describes: one device, or several behind an IOMMU.
public enum ConfigurationFile: Hashable, Sendable {
    case device(DeviceConfiguration)
    case topology(TopologyConfiguration)

    /// Reads a file's text. One that has an IOMMU or several devices is a topology, as `schemas/topology.schema.json` has
    /// it; any other is a device, as `schemas/device-options.schema.json` has it.
    public init(parsing text: [UInt8]) throws(ConfigurationError) {
        let document: JSONValue
        do {
            document = try JSONValue(parsing: text)
        } catch {
            throw ConfigurationError("", ConfigurationFile.describe(error, in: text))
        }
        let members = try MemberReader(document, path: "")
        if members.has("iommu") || members.has("devices") {
            self = .topology(try TopologyConfiguration(members))
        } else {
            self = .device(try DeviceConfiguration(members))
        }
    }

    private static func describe(_ error: JSONError, in text: [UInt8]) -> String {
        guard let offset = error.offset else { return "not JSON: \(error)" }
        let before = text.prefix(offset)
        let line = before.count { $0 == UInt8(ascii: "\n") } + 1
        let column = before.reversed().prefix { $0 != UInt8(ascii: "\n") }.count + 1
        return "not JSON: \(error) in line \(line), column \(column)"
    }
}
