import JSONText
import Randomness
import Testing

@Suite struct `JSON text` {
    private func parse(_ text: String, limits: JSONLimits = JSONLimits()) throws(JSONError) -> JSONValue {
        try JSONValue(parsing: Array(text.utf8), limits: limits)
    }

    @Test func `every kind of value`() throws {
        let value = try parse(
            #" {"n":null,"b":[true,false],"i":-9223372036854775808,"u":18446744073709551615,"d":-1.5e2} "#)
        #expect(
            value
                == .object([
                    .init("n", .null), .init("b", .array([.boolean(true), .boolean(false)])),
                    .init("i", .integer(-9_223_372_036_854_775_808)), .init("u", .integer(18_446_744_073_709_551_615)),
                    .init("d", .decimal(-150)),
                ]))
    }

    @Test func `strings with escapes and without`() throws {
        #expect(try parse(#""gr\u00fc\u00df\n\"\\\/ 😀 \ud83d\ude00""#) == .string("grüß\n\"\\/ 😀 😀"))
        #expect(try parse("\"\"") == .string(""))
    }

    @Test(arguments: ["null", "true", "1", "-0", "1.25", "\"x\"", "[]", "{}"])
    func `a value needs no container`(text: String) throws {
        #expect(throws: Never.self) { try parse(text) }
    }

    @Test(arguments: ["", " ", "{", "[1", "{\"a\"", "{\"a\":", "\"abc", "\"abc\\", "\"abc\\\"", "tru"])
    func `a text that ends too early is refused`(text: String) {
        #expect(throws: JSONError.self) { try parse(text) }
    }

    @Test(arguments: [
        "01", "-01", "00", "1.", "1.e5", ".5", "+1", "-", "1e", "1e+", "--1", "1-2", "0x10", "NaN", "-NaN", "nan",
        "Infinity", "-Infinity", "infinity", "1e999", "-1e999", "1_000", "1 2",
    ])
    func `what is no number is refused`(text: String) {
        #expect(throws: JSONError.self) { try parse(text) }
        #expect(throws: JSONError.self) { try parse("{\"a\":\(text)}") }
    }

    @Test(arguments: ["18446744073709551616", "-9223372036854775809", "99999999999999999999999999999999"])
    func `an integer past 64 bits is refused and not clamped`(text: String) {
        #expect(throws: JSONError.numberOutOfRange(offset: 5)) { try parse("{\"a\":\(text)}") }
    }

    @Test(arguments: [
        "'a'", "{'a':1}", "{a:1}", "[1,]", "{\"a\":1,}", "[,]", "{,}", "{} {}", "{}x", "[1]]", "TRUE", "Null",
        "/* */ {}", "{} // end", "# {}", "\u{feff}{}", "{\"a\" 1}", "{\"a\":1 \"b\":2}", "[1 2]", "{\"a\":1:2}",
        "\"\\x\"", "\u{a0}{}", "{}\u{0}", "{}\u{0}{}", "\u{b}{}",
    ])
    func `what only some readers take is refused`(text: String) {
        #expect(throws: JSONError.self) { try parse(text) }
    }

    @Test func `control characters in strings are refused`() {
        for byte in 0..<UInt8(0x20) {
            #expect(throws: JSONError.controlCharacterInString(offset: 2)) {
                try JSONValue(parsing: [0x22, 0x61, byte, 0x22])
            }
        }
    }

    @Test func `an escaped NUL is refused, where a C string would end`() {
        #expect(throws: JSONError.escapedNUL(offset: 13)) { try parse(#"{"max_msg_fds\u0000":1}"#) }
        #expect(throws: Never.self) { try parse(#""\\u0000""#) }
    }

    @Test func `text that is not UTF-8 is refused`() {
        for bytes in [[0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf5, 0x80, 0x80, 0x80], [0xc3]] as [[UInt8]] {
            #expect(throws: JSONError.notUTF8) { try JSONValue(parsing: [0x22] + bytes + [0x22]) }
        }
    }

    @Test(arguments: [
        #"{"a":1,"a":2}"#, #"{"a":1,"b":{"c":1,"c":1}}"#, #"{"a":1,"\u0061":2}"#,
        #"[{"a":{"x":1}},{"b":1,"b":{"y":2}}]"#,
    ])
    func `a name given twice in one object is refused`(text: String) {
        #expect(throws: JSONError.duplicateName) { try parse(text) }
    }

    @Test func `a name given in two objects is fine, and so are colons in strings`() throws {
        #expect(throws: Never.self) { try parse(#"{"a":{"a":1},"b":[{"a":1},{"a":1}],":":"::"}"#) }
    }

    @Test func `depth and length have limits`() {
        let limits = JSONLimits(maximumByteCount: 16, maximumDepth: 4)
        #expect(throws: Never.self) { try parse("[[[1]]]", limits: limits) }
        #expect(throws: JSONError.nestedTooDeep(maximumDepth: 4)) { try parse("[[[[[1]]]]]", limits: limits) }
        #expect(throws: JSONError.tooLong(maximumByteCount: 16)) { try parse("[1,2,3,4,5,6,7,8]", limits: limits) }
        #expect(throws: JSONError.self) { try parse(String(repeating: "[", count: 100_000)) }
    }

    @Test func `what is written is short and reads the same`() throws {
        let value = JSONValue.object([
            .init("capabilities", .object([.init("a", .integer(18_446_744_073_709_551_615)), .init("b", .null)])),
            .init("path", .string("/run/\"x\"\u{1}ü")),
            .init("list", .array([.decimal(0.5), .integer(-1), .boolean(true)])),
        ])
        let text = try value.text()
        #expect(
            String(decoding: text, as: UTF8.self)
                == #"{"capabilities":{"a":18446744073709551615,"b":null},"path":"/run/\"x\"\u0001ü","list":[0.5,-1,true]}"#
        )
        #expect(try JSONValue(parsing: text) == value)
    }

    @Test func `a number that JSON-C cannot hold is not written`() {
        #expect(throws: JSONError.numberOutOfRange(offset: 0)) { try JSONValue.integer(1 << 64).text() }
    }

    @Test func `a whole number may be written with a fraction`() throws {
        #expect(try parse("4096.0").wholeNumber == 4096)
        #expect(try parse("1e3").wholeNumber == 1000)
        #expect(try parse("1.5").wholeNumber == nil)
        #expect(try parse("true").wholeNumber == nil)
    }

    /// Seeded: texts with a few bytes changed must be read or refused, and what is read must come back when written.
    @Test func `changed texts never trap`() throws {
        let seeds = [
            #"{"capabilities": {"pgsizes": 4096, "migration": {"pgsize": 4096}, "write_multiple": true}}"#,
            #"[1.5e3,-0,"\u00e4\n",{"a":[[],{}]},null,18446744073709551615]"#,
        ].map { Array($0.utf8) }
        let alphabet = Array(#"{}[]:,"\ 0123456789-+.eEutfnrax'/"#.utf8) + [0, 9, 10, 0x1f, 0x7f, 0x80, 0xc3, 0xff]
        var random = SeededNumbers(seed: 20_261_121)
        for round in 0..<20_000 {
            var text = seeds[round % seeds.count]
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let offset = Int.random(in: 0..<text.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: text[offset] = alphabet.randomElement(using: &random) ?? 0
                case 1: text.insert(alphabet.randomElement(using: &random) ?? 0, at: offset)
                default: text.remove(at: offset)
                }
            }
            guard let value = try? JSONValue(parsing: text) else { continue }
            #expect(try JSONValue(parsing: value.text()) == value)
        }
    }
}
