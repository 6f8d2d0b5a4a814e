import Testing

/// The targets of Package.swift and what each depends on, as far as the text says it.
struct Manifest {
    let dependencies: [String: Set<String>]

    /// Every call that makes a target names it first; the strings behind it that are names of targets are what it
    /// depends on.
    init(_ text: String) {
        let calls = text.matches(
            of: #/(?:library|tests|\.target|\.executableTarget|\.testTarget|\.systemLibrary)\(\s*(?:name: )?"(\w+)"/#)
        let names = Set(calls.map { String($0.1) })
        var dependencies: [String: Set<String>] = [:]
        for call in calls {
            var depth = 1
            let rest = text[call.range.upperBound...]
            let end = rest.firstIndex { character in
                if character == "(" { depth += 1 }
                if character == ")" { depth -= 1 }
                return depth == 0
            }
            let strings = rest[..<(end ?? rest.endIndex)].matches(of: #/"(\w+)"/#).map { String($0.1) }
            dependencies[String(call.1)] = Set(strings).intersection(names)
        }
        self.dependencies = dependencies
    }
}

extension SourceTree.File {
    /// The modules that the file imports.
    var imports: Set<String> {
        Set(
            text.matches(
                of:
                    #/(?m)^\s*(?:@\w+(?:\(\w+\))? )*(?:public |internal |package |private |fileprivate )?import (?:\w+ )?(\w+)/#
            )
            .map { String($0.1) })
    }
}

@Suite struct `The house` {
    let manifest: Manifest
    let targets: [String]

    init() throws {
        manifest = Manifest(try SourceTree.read("Package.swift"))
        targets = try SourceTree.folders(in: "Sources")
    }

    @Test func `every target has its place in the graph and in Package.swift`() {
        #expect(!targets.isEmpty)
        for target in targets {
            #expect(House.graph[target] != nil, "add \(target) to the graph in Tests/TidyTests/House.swift")
            #expect(manifest.dependencies[target] != nil, "Package.swift does not build \(target)")
        }
    }

    @Test func `the graph has no cycle`() {
        var settled: Set<String> = []
        for _ in House.graph {
            for (target, rule) in House.graph where rule.targets.isSubset(of: settled) { settled.insert(target) }
        }
        #expect(settled == Set(House.graph.keys))
    }

    @Test func `Package.swift lets every target depend on what the graph names and on nothing else`() {
        for target in targets {
            guard let rule = House.graph[target], rule.isExact else { continue }
            #expect(manifest.dependencies[target] == rule.targets, "\(target)")
        }
    }

    @Test func `every file imports only what the graph gives its target`() throws {
        for file in try SourceTree.swiftFiles(in: "Sources") {
            guard let rule = House.graph[file.target] else { continue }
            let allowed = rule.isExact ? rule.targets : Set(House.graph.keys)
            let foreign = file.imports.subtracting(allowed).subtracting(rule.others)
            #expect(foreign.isEmpty, "\(file) imports \(foreign.sorted())")
        }
    }

    @Test func `every import is declared in Package.swift`() throws {
        for file in try SourceTree.swiftFiles(in: "Sources") {
            let ours = file.imports.intersection(House.graph.keys)
            let undeclared = ours.subtracting(manifest.dependencies[file.target] ?? [])
            #expect(undeclared.isEmpty, "\(file) imports \(undeclared.sorted())")
        }
    }

    @Test func `the graph gives nothing that no file uses`() throws {
        let files = try SourceTree.swiftFiles(in: "Sources")
        for target in targets {
            guard let rule = House.graph[target], rule.isExact else { continue }
            let used = files.filter { $0.target == target }.reduce(Set<String>()) { $0.union($1.imports) }
            let unused = rule.targets.union(rule.others).subtracting(used)
            #expect(unused.isEmpty, "\(target) need not import \(unused.sorted())")
        }
    }

    @Test func `no library imports what only programs and tests may`() throws {
        for file in try SourceTree.swiftFiles(in: "Sources") where !House.programs.contains(file.target) {
            #expect(file.imports.isDisjoint(with: House.bannedFromLibraries), "\(file)")
        }
    }

    @Test func `a session imports no device, and a device no wire`() {
        let protocolTargets = Set(House.graph.keys.filter { $0.hasPrefix("VFIOUser") })
        let devices: Set = ["Edu", "NVMe", "Virtio", "VirtioEntropy"]
        func reach(_ target: String) -> Set<String> {
            (House.graph[target]?.targets ?? []).reduce(into: []) { $0.formUnion(reach($1).union([$1])) }
        }
        for target in protocolTargets { #expect(reach(target).isDisjoint(with: devices.union(["PCI"])), "\(target)") }
        for target in devices.union(["PCI", "DMA", "DeviceModel"]) {
            #expect(reach(target).isDisjoint(with: protocolTargets), "\(target)")
        }
    }
}

@Suite struct `Reading the manifest` {
    @Test func `each way to declare a target is understood`() {
        let manifest = Manifest(
            """
            library("One"), library("Two", ["One"]),
            .systemLibrary(name: "Three", pkgConfig: "three", providers: [.apt(["One"])]),
            .executableTarget(
                name: "Four", dependencies: ["Two", .product(name: "Foreign", package: "foreign")], swiftSettings: s),
            tests("FourTests", ["One"], exclude: ["Two things"]),
            """)
        #expect(Set(manifest.dependencies.keys) == ["One", "Two", "Three", "Four", "FourTests"])
        #expect(manifest.dependencies["One"] == [])
        #expect(manifest.dependencies["Two"] == ["One"])
        #expect(manifest.dependencies["Four"] == ["Two"])
        #expect(manifest.dependencies["FourTests"] == ["One"])
    }

    @Test func `each way to import is understood`() {
        let file = SourceTree.File(
            path: "Sources/X/Y.swift",
            text: "import A\npublic import B\n@testable import C\nimport struct D.E\n// import F\n  import G\n")
        #expect(file.imports == ["A", "B", "C", "D", "G"])
        #expect(file.target == "X")
    }
}
