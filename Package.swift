// swift-tools-version: 6.2
import PackageDescription

let house: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
]

func library(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: house)
}

func tests(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []) -> Target {
    .testTarget(name: name, dependencies: dependencies, exclude: exclude, swiftSettings: house)
}

let package = Package(
    name: "outboard",
    products: [
        .executable(name: "outboard", targets: ["outboard"]),
        .library(name: "Outboard", targets: ["DMA", "DeviceModel", "PCI", "VFIOUserServer"]),
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
        library("Configuration", ["JSONText"]),
        library("VFIOUserWire"),
        library("VFIOUserNegotiation", ["JSONText", "VFIOUserWire"]),
        library("VFIOUserTransport", ["LinuxHost", "VFIOUserWire"]),
        library("DMA", ["LinuxHost"]),
        library("DeviceModel", ["DMA", "LinuxHost"]),
        library("PCI", ["DMA", "DeviceModel", "LinuxHost"]),
        library("VFIOUserSession", ["DMA", "DeviceModel", "LinuxHost", "VFIOUserNegotiation", "VFIOUserWire"]),
        library(
            "VFIOUserServer",
            ["DMA", "DeviceModel", "LinuxHost", "VFIOUserSession", "VFIOUserTransport", "VFIOUserWire"]),
        library("VFIOUserClient", ["LinuxHost", "VFIOUserNegotiation", "VFIOUserWire"]),
        library("BlockStorage", ["LinuxHost"]),
        library("NVMe", ["BlockStorage", "DMA", "DeviceModel", "LinuxHost", "PCI"]),
        library("Edu", ["DMA", "DeviceModel", "LinuxHost", "PCI"]),
        .executableTarget(
            name: "outboard",
            dependencies: [
                "BlockStorage", "Configuration", "DeviceModel", "Edu", "LinuxHost", "NVMe", "VFIOUserServer",
                "VFIOUserWire",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: house),
        tests("LinuxHostTests", ["LinuxHost"]),
        tests("DMATests", ["DMA", "LinuxHost"]),
        .target(name: "CPageCache", path: "Tests/Support/CPageCache"),
        tests("BlockStorageTests", ["BlockStorage", "CPageCache", "LinuxHost"]),
        tests("NVMeTests", ["BlockStorage", "DMA", "DeviceModel", "LinuxHost", "NVMe", "PCI"]),
        tests("VFIOUserWireTests", ["VFIOUserWire"], exclude: ["Fixtures"]),
        .target(name: "SchemaExamples", path: "Tests/SchemaExamples", swiftSettings: house),
        tests("JSONTextTests", ["JSONText"]),
        tests("ConfigurationTests", ["Configuration", "SchemaExamples"]),
        tests("VFIOUserNegotiationTests", ["JSONText", "SchemaExamples", "VFIOUserNegotiation", "VFIOUserWire"]),
        tests("DeviceModelTests", ["DeviceModel", "LinuxHost"]),
        tests("EduTests", ["DMA", "DeviceModel", "Edu", "LinuxHost", "PCI"]),
        tests("PCITests", ["DMA", "DeviceModel", "LinuxHost", "PCI"]),
        .target(name: "CHeapCount", path: "Tests/Support/CHeapCount"),
        tests(
            "ConformanceTests",
            [
                "CHeapCount", "DMA", "DeviceModel", "Edu", "LinuxHost", "PCI", "VFIOUserNegotiation", "VFIOUserServer",
                "VFIOUserSession", "VFIOUserWire", "outboard",
            ],
            exclude: ["Checklist.md"]),
        .target(name: "CBaselines", path: "Tests/Benchmarks/CBaselines"),
        .target(name: "CProcessCounters", path: "Tests/Benchmarks/CProcessCounters"),
        .executableTarget(
            name: "Benchmarks",
            dependencies: [
                "CBaselines", "CHeapCount", "CProcessCounters", "DMA", "LinuxHost",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "Tests/Benchmarks/Benchmarks",
            swiftSettings: house),
        tests("ToolTests", ["LinuxHost", "outboard"]),
        tests("TidyTests", ["Edu", "NVMe", "PCI"]),
        tests(
            "VFIOUserClientTests",
            [
                "DMA", "DeviceModel", "Edu", "LinuxHost", "PCI", "VFIOUserClient", "VFIOUserNegotiation",
                "VFIOUserServer", "VFIOUserWire",
            ]),
    ]
)
