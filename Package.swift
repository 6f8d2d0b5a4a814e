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
        .library(name: "DMA", targets: ["DMA"]),
        .library(name: "VFIOUserClient", targets: ["VFIOUserClient"]),
    ],
    dependencies: [],
    targets: [
        .systemLibrary(name: "CJSONC", pkgConfig: "json-c", providers: [.apt(["libjson-c-dev"])]),
        .target(name: "CLinuxShims"),
        library("LinuxHost", ["CLinuxShims"]),
        library("JSONText", ["CJSONC"]),
        library("VFIOUserWire"),
        library("VFIOUserNegotiation", ["JSONText", "VFIOUserWire"]),
        library("DMA", ["LinuxHost"]),
        library("DeviceModel", ["DMA", "LinuxHost"]),
        library("PCI", ["DMA", "DeviceModel", "LinuxHost"]),
        library("VFIOUserSession", ["DMA", "DeviceModel", "LinuxHost", "VFIOUserNegotiation", "VFIOUserWire"]),
        library("VFIOUserServer", ["DMA", "DeviceModel", "LinuxHost", "VFIOUserSession", "VFIOUserWire"]),
        library("VFIOUserClient", ["LinuxHost", "VFIOUserNegotiation", "VFIOUserWire"]),
        library("BlockStorage", ["LinuxHost"]),
        library("Edu", ["DMA", "LinuxHost", "PCI"]),
        tests("BlockStorageTests", ["BlockStorage", "LinuxHost"]),
        .target(name: "CHeapCount", path: "Tests/Support/CHeapCount"),
        tests(
            "ConformanceTests", ["CHeapCount", "DMA", "DeviceModel", "Edu", "LinuxHost", "PCI", "VFIOUserServer"],
            exclude: ["Checklist.md"]),
        tests(
            "VFIOUserClientTests",
            [
                "DMA", "DeviceModel", "Edu", "LinuxHost", "PCI", "VFIOUserClient", "VFIOUserNegotiation",
                "VFIOUserServer", "VFIOUserWire",
            ]),
    ]
)
