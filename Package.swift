// swift-tools-version: 6.2
import PackageDescription

/// The folder of libFuzzer and the sanitizers in a build for fuzzing, which Tests/Fuzz/build makes; nil in every other.
let fuzzingRuntime = Context.environment["OUTBOARD_FUZZING_RUNTIME"]

let strictness: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
]

let house =
    fuzzingRuntime == nil
    ? strictness : strictness + [.unsafeFlags(["-sanitize=fuzzer,address"]), .define("LIBFUZZER")]

func library(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: house)
}

func tests(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []) -> Target {
    .testTarget(name: name, dependencies: dependencies, exclude: exclude, swiftSettings: house)
}

func fuzzer(_ name: String) -> Target {
    .executableTarget(
        name: name,
        dependencies: [
            "CLibFuzzer", "FuzzBodies", .product(name: "ArgumentParser", package: "swift-argument-parser"),
        ],
        path: "Tests/Fuzz/\(name)", swiftSettings: house,
        linkerSettings: fuzzingRuntime.map { folder in
            [
                .unsafeFlags(["-sanitize=address", "-L\(folder)"]), .linkedLibrary("clang_rt.fuzzer_no_main-x86_64"),
                .linkedLibrary("stdc++"),
            ]
        })
}

let package = Package(
    name: "outboard",
    products: [
        .executable(name: "outboard", targets: ["outboard"]),
        .library(name: "Outboard", targets: ["DMA", "DeviceModel", "PCI", "SVA", "VFIOUserServer"]),
        .library(name: "DMA", targets: ["DMA"]),
        .library(name: "VFIOUserClient", targets: ["VFIOUserClient"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
    ],
    targets: [
        .systemLibrary(name: "CJSONC", pkgConfig: "json-c", providers: [.apt(["libjson-c-dev"])]),
        .target(name: "CLinuxShims"),
        library("LinuxHost", ["CLinuxShims"]),
        library("JSONText", ["CJSONC"]),
        library("PCITopology"),
        library("Configuration", ["JSONText", "PCITopology"]),
        library("VFIOUserWire"),
        library("VFIOUserNegotiation", ["JSONText", "VFIOUserWire"]),
        library("VFIOUserTransport", ["LinuxHost", "VFIOUserWire"]),
        library("DMA", ["LinuxHost"]),
        library("SVA", ["DMA", "LinuxHost"]),
        library("DeviceModel", ["DMA", "LinuxHost"]),
        library("PCI", ["DMA", "DeviceModel", "LinuxHost"]),
        library("VFIOUserSession", ["DMA", "DeviceModel", "LinuxHost", "VFIOUserNegotiation", "VFIOUserWire"]),
        library(
            "VFIOUserServer",
            [
                "DMA", "DeviceModel", "LinuxHost", "VFIOUserNegotiation", "VFIOUserSession", "VFIOUserTransport",
                "VFIOUserWire",
            ]),
        library("VFIOUserClient", ["LinuxHost", "VFIOUserNegotiation", "VFIOUserTransport", "VFIOUserWire"]),
        library("VFIOUserCheck", ["JSONText", "LinuxHost"]),
        library("VFIOUserRecording", ["JSONText", "LinuxHost", "VFIOUserTransport", "VFIOUserWire"]),
        library("BlockStorage", ["LinuxHost"]),
        library("NVMe", ["BlockStorage", "DMA", "DeviceModel", "LinuxHost", "PCI"]),
        library("Edu", ["DMA", "DeviceModel", "LinuxHost", "PCI"]),
        library("CopyEngine", ["DMA", "LinuxHost", "PCI", "SVA"]),
        library("Virtio", ["DMA", "DeviceModel", "LinuxHost", "PCI"]),
        library("VirtioIOMMU", ["DMA", "LinuxHost", "PCI", "Virtio"]),
        library("VirtioEntropy", ["LinuxHost", "PCI", "Virtio"]),
        .executableTarget(
            name: "outboard",
            dependencies: [
                "BlockStorage", "Configuration", "CopyEngine", "DMA", "DeviceModel", "Edu", "JSONText", "LinuxHost",
                "NVMe", "PCI", "PCITopology", "VFIOUserCheck", "VFIOUserClient", "VFIOUserNegotiation",
                "VFIOUserRecording", "VFIOUserServer", "VFIOUserTransport", "VFIOUserWire", "Virtio", "VirtioEntropy",
                "VirtioIOMMU",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: house),
        tests("LinuxHostTests", ["LinuxHost"]),
        .target(name: "RuleTables", path: "Tests/Support/RuleTables", swiftSettings: house),
        .target(
            name: "ServedDevices",
            dependencies: ["DeviceModel", "LinuxHost", "VFIOUserClient", "VFIOUserNegotiation", "VFIOUserServer"],
            path: "Tests/Support/ServedDevices", swiftSettings: house),
        .target(name: "Randomness", path: "Tests/Support/Randomness", swiftSettings: house),
        tests("DMATests", ["DMA", "LinuxHost", "Randomness", "RuleTables"]),
        tests("SVATests", ["DMA", "LinuxHost", "Randomness", "RuleTables", "SVA"]),
        .target(name: "CPageCache", path: "Tests/Support/CPageCache"),
        tests("BlockStorageTests", ["BlockStorage", "CPageCache", "LinuxHost"]),
        tests("NVMeTests", ["BlockStorage", "DMA", "DeviceModel", "LinuxHost", "NVMe", "PCI", "Randomness"]),
        tests("VFIOUserTransportTests", ["LinuxHost", "VFIOUserTransport", "VFIOUserWire"]),
        tests("VFIOUserWireTests", ["Randomness", "VFIOUserWire"], exclude: ["Fixtures"]),
        .target(name: "SchemaExamples", path: "Tests/SchemaExamples", swiftSettings: house),
        tests("JSONTextTests", ["JSONText", "Randomness"]),
        tests("PCITopologyTests", ["PCITopology"]),
        tests("ConfigurationTests", ["Configuration", "PCITopology", "SchemaExamples"]),
        tests("VFIOUserNegotiationTests", ["JSONText", "SchemaExamples", "VFIOUserNegotiation", "VFIOUserWire"]),
        tests("DeviceModelTests", ["DeviceModel", "LinuxHost"]),
        tests("EduTests", ["DMA", "DeviceModel", "Edu", "LinuxHost", "PCI", "Randomness"]),
        tests(
            "CopyEngineTests",
            ["CopyEngine", "DMA", "DeviceModel", "LinuxHost", "PCI", "Randomness", "ServedDevices", "VFIOUserClient"]),
        tests("PCITests", ["DMA", "DeviceModel", "LinuxHost", "PCI", "Randomness"]),
        .target(
            name: "IOMMUTestDriver",
            dependencies: ["DMA", "LinuxHost", "PCI", "Virtio", "VirtioIOMMU"],
            path: "Tests/Support/IOMMUTestDriver", swiftSettings: house),
        tests(
            "VirtioIOMMUTests",
            [
                "CProcessCounters", "DMA", "DeviceModel", "Edu", "IOMMUTestDriver", "LinuxHost", "PCI", "Randomness",
                "RuleTables",
                "Virtio", "VirtioIOMMU",
            ]),
        .target(
            name: "VirtioEcho", dependencies: ["LinuxHost", "PCI", "Virtio"], path: "Tests/Support/VirtioEcho",
            swiftSettings: house),
        tests(
            "VirtioTests",
            ["DMA", "DeviceModel", "LinuxHost", "PCI", "Virtio", "VirtioEcho", "VirtioEntropy"]),
        .target(name: "CHeapCount", path: "Tests/Support/CHeapCount"),
        tests(
            "ConformanceTests",
            [
                "CHeapCount", "CProcessCounters", "DMA", "DeviceModel", "Edu", "LinuxHost", "PCI", "Randomness",
                "VFIOUserCheck", "VFIOUserNegotiation", "VFIOUserServer", "VFIOUserSession", "VFIOUserTransport",
                "VFIOUserWire", "outboard",
            ],
            exclude: ["Checklist.md"]),
        .target(name: "CLibFuzzer", path: "Tests/Fuzz/CLibFuzzer"),
        .target(
            name: "FuzzBodies",
            dependencies: [
                "BlockStorage", "CLinuxShims", "CopyEngine", "DMA", "DeviceModel", "Edu", "JSONText", "LinuxHost",
                "NVMe", "PCI", "Randomness",
                "VFIOUserCheck", "VFIOUserNegotiation", "VFIOUserServer", "VFIOUserSession", "VFIOUserWire", "Virtio",
                "VirtioEcho", "VirtioEntropy",
            ],
            path: "Tests/Fuzz/FuzzBodies",
            swiftSettings: house),
        fuzzer("WireFuzzer"),
        fuzzer("SessionFuzzer"),
        fuzzer("VirtqueueFuzzer"),
        tests("FuzzTests", ["FuzzBodies"]),
        .target(name: "CBaselines", path: "Tests/Benchmarks/CBaselines"),
        .target(name: "CProcessCounters", path: "Tests/Benchmarks/CProcessCounters"),
        .executableTarget(
            name: "Benchmarks",
            dependencies: [
                "BlockStorage", "CBaselines", "CHeapCount", "CProcessCounters", "DMA", "DeviceModel", "IOMMUTestDriver",
                "LinuxHost", "NVMe", "PCI", "Randomness", "SVA", "VFIOUserServer", "VirtioIOMMU",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "Tests/Benchmarks/Benchmarks",
            swiftSettings: house),
        tests("ToolTests", ["JSONText", "LinuxHost", "VFIOUserClient", "outboard"]),
        tests(
            "VFIOUserCheckTests", ["DMA", "DeviceModel", "Edu", "LinuxHost", "VFIOUserCheck", "VFIOUserServer"]),
        tests(
            "VFIOUserRecordingTests",
            [
                "BlockStorage", "DeviceModel", "Edu", "JSONText", "LinuxHost", "NVMe", "PCI", "Randomness",
                "VFIOUserClient",
                "VFIOUserRecording", "VFIOUserServer", "VFIOUserTransport", "VFIOUserWire",
            ], exclude: ["Fixtures"]),
        tests("TidyTests", ["CopyEngine", "Edu", "NVMe", "PCI", "Virtio"]),
        tests(
            "VFIOUserClientTests",
            [
                "DMA", "DeviceModel", "Edu", "LinuxHost", "PCI", "ServedDevices", "VFIOUserClient",
                "VFIOUserNegotiation", "VFIOUserServer", "VFIOUserTransport", "VFIOUserWire",
            ]),
    ]
)
