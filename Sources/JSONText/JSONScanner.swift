/// One pass over a text for what JSON-C lets through although RFC 8259 does not, or changes without a word.
///
/// That is: single quotes, `NaN` and `Infinity`, numbers such as `-01` and `1.`, integers past 64 bits (JSON-C clamps
/// them), raw control characters and escaped NULs in strings (names would end there). Everything else is JSON-C's to
/// judge. The scan also counts the members, because JSON-C keeps the last of two with one name: a tree with fewer members
/// than the text has lost some.
struct JSONScanner {
    private let text: [UInt8]
    private var offset = 0
    private(set) var memberCount = 0

    init(scanning text: [UInt8]) throws(JSONError) {
        self.text = text
        while offset < text.count {
            switch text[offset] {
            case UInt8(ascii: "\""):
                try scanString()
            case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"):
                try scanNumber()
            case UInt8(ascii: ":"):
                memberCount += 1
                offset += 1
            case UInt8(ascii: "{"), UInt8(ascii: "}"), UInt8(ascii: "["), UInt8(ascii: "]"), UInt8(ascii: ","),
                UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\n"), UInt8(ascii: "\r"),
                UInt8(ascii: "a")...UInt8(ascii: "z"):
                offset += 1
            default:
                throw .unexpectedByte(offset: offset)
            }
        }
    }

    private mutating func scanString() throws(JSONError) {
        offset += 1
        while offset < text.count {
            switch text[offset] {
            case UInt8(ascii: "\""):
                offset += 1
                return
            case UInt8(ascii: "\\"):
                if text[offset...].starts(with: Array("\\u0000".utf8)) { throw .escapedNUL(offset: offset) }
                offset += 2
            case 0..<0x20:
                throw .controlCharacterInString(offset: offset)
            default:
                offset += 1
            }
        }
        throw .unexpectedEnd
    }

    /// Follows the grammar of section 6 of RFC 8259.
    private mutating func scanNumber() throws(JSONError) {
        let start = offset
        let isNegative = skip(UInt8(ascii: "-"))
        let digits = skipDigits()
        let hasLeadingZero = digits.count > 1 && text[digits.lowerBound] == UInt8(ascii: "0")
        if digits.isEmpty || hasLeadingZero { throw .malformedNumber(offset: start) }
        var isInteger = true
        if skip(UInt8(ascii: ".")) {
            isInteger = false
            if skipDigits().isEmpty { throw .malformedNumber(offset: start) }
        }
        if skip(UInt8(ascii: "e")) || skip(UInt8(ascii: "E")) {
            isInteger = false
            if !skip(UInt8(ascii: "+")) { _ = skip(UInt8(ascii: "-")) }
            if skipDigits().isEmpty { throw .malformedNumber(offset: start) }
        }
        if isInteger && !fits(digits, isNegative: isNegative) { throw .numberOutOfRange(offset: start) }
    }

    private mutating func skip(_ byte: UInt8) -> Bool {
        guard offset < text.count && text[offset] == byte else { return false }
        offset += 1
        return true
    }

    private mutating func skipDigits() -> Range<Int> {
        let start = offset
        while offset < text.count && (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(text[offset]) { offset += 1 }
        return start..<offset
    }

    private func fits(_ digits: Range<Int>, isNegative: Bool) -> Bool {
        let limit = isNegative ? Int64.min.magnitude : UInt64.max
        var value: UInt64 = 0
        for digit in text[digits] {
            let (product, overflow) = value.multipliedReportingOverflow(by: 10)
            let (sum, carry) = product.addingReportingOverflow(UInt64(digit - UInt8(ascii: "0")))
            if overflow || carry { return false }
            value = sum
        }
        return value <= limit
    }
}
