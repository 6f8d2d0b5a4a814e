/// The registers of a device or of a configuration space, by offset.
///
/// Built once from declarations; what the declarations promise is checked then, so that an access at any width and
/// offset needs no decoding by the device.
public struct RegisterMap<ID: Hashable & Sendable>: Sendable {
    /// Ascending by offset.
    public let declarations: [RegisterDeclaration<ID>]
    /// The end of the last register, in bytes from the start.
    public let byteCount: Int

    let resetBytes: [UInt8]
    /// Per byte: which bits a write replaces, clears where it has ones, sets where it has ones, and reads hide.
    let replaced, cleared, set, hidden: [UInt8]
    /// Per byte: the index of the declaration that covers it, or `none`.
    let owner: [UInt16]
    let index: [ID: Int]

    static var none: UInt16 { .max }

    /// - Precondition: registers have a legal width, are naturally aligned, do not overlap and have distinct identifiers;
    ///   fields lie within their register and do not overlap; reset values set no reserved bit.
    public init(_ unsorted: [RegisterDeclaration<ID>]) {
        declarations = unsorted.sorted { $0.offset < $1.offset }
        let end = declarations.last.map { $0.offset + $0.byteCount } ?? 0
        byteCount = end
        var resetBytes = [UInt8](repeating: 0, count: end)
        var replaced = resetBytes
        var cleared = resetBytes
        var set = resetBytes
        var hidden = resetBytes
        var owner = [UInt16](repeating: Self.none, count: end)
        var index: [ID: Int] = [:]
        for (number, register) in declarations.enumerated() {
            Self.check(register)
            precondition(index.updateValue(number, forKey: register.id) == nil, "\(register.name) is declared twice")
            for byte in 0..<register.byteCount {
                let place = register.offset + byte
                precondition(owner[place] == Self.none, "\(register.name) overlaps another register")
                owner[place] = UInt16(number)
                resetBytes[place] = register.resetValue.byte(byte)
                replaced[place] = register.mask(of: [.readWrite, .writeOnly]).byte(byte)
                cleared[place] = register.mask(of: [.writeOneToClear]).byte(byte)
                set[place] = register.mask(of: [.writeOneToSet]).byte(byte)
                hidden[place] = register.mask(of: [.writeOnly]).byte(byte)
            }
        }
        self.resetBytes = resetBytes
        self.replaced = replaced
        self.cleared = cleared
        self.set = set
        self.hidden = hidden
        self.owner = owner
        self.index = index
    }

    private static func check(_ register: RegisterDeclaration<ID>) {
        precondition([1, 2, 4, 8].contains(register.byteCount), "\(register.name) has a width that no access has")
        precondition(
            register.offset >= 0 && register.offset % register.byteCount == 0,
            "\(register.name) is not naturally aligned")
        var used: UInt64 = 0
        for field in register.fields {
            precondition(
                field.bits.lowerBound >= 0 && field.bits.upperBound < register.byteCount * 8,
                "\(register.name).\(field.name) lies outside its register")
            precondition(used & field.mask == 0, "\(register.name).\(field.name) overlaps another field")
            used |= field.mask
        }
        precondition(register.resetValue & ~used == 0, "\(register.name) resets a reserved bit to one")
    }

    /// The registers that an access touches, in ascending order.
    func registers(touchedAt offset: Int, byteCount: Int) -> [Int] {
        var found: [Int] = []
        forEachRegister(touchedAt: offset, byteCount: byteCount) { found.append($0) }
        return found
    }

    /// As `registers(touchedAt:byteCount:)`, for reads, which are not to cost the heap a call.
    func forEachRegister(touchedAt offset: Int, byteCount: Int, _ body: (Int) -> Void) {
        let end = min(offset + byteCount, self.byteCount)
        guard offset >= 0, offset < end else { return }
        var last = Self.none
        for place in offset..<end where owner[place] != last {
            last = owner[place]
            if last != Self.none { body(Int(last)) }
        }
    }
}

extension RegisterMap {
    /// The map as a Markdown table, which is how the documentation shows it.
    public var markdownTable: String {
        var lines = ["| Offset | Bytes | Register | Reset | Bits | Field | Access |", "|---|---|---|---|---|---|---|"]
        for register in declarations {
            let place = "0x" + String(register.offset, radix: 16)
            let reset = "0x" + String(register.resetValue, radix: 16)
            var start = "| \(place) | \(register.byteCount) | \(register.name) | \(reset) "
            if register.fields.isEmpty { lines.append(start + "| | | |") }
            for field in register.fields.sorted(by: { $0.bits.lowerBound < $1.bits.lowerBound }) {
                let (first, last) = (field.bits.lowerBound, field.bits.upperBound)
                let bits = first == last ? "\(first)" : "\(last):\(first)"
                lines.append(start + "| \(bits) | \(field.name) | \(field.access.abbreviation) |")
                start = "| | | | "
            }
        }
        return lines.joined(separator: "\n") + "\n"
    }
}

extension UInt64 {
    /// Byte `number` of the little-endian form.
    func byte(_ number: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: self >> UInt64(number * 8))
    }
}
