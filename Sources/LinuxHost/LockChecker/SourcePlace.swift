/// A line of the program, as `#fileID` and `#line` name it.
///
/// Made from literals only, so it costs no allocation. Two places are equal when they read the same.
public struct SourcePlace: Hashable, Sendable, CustomStringConvertible {
    public let file: StaticString
    public let line: UInt32

    /// The place of the call.
    @inlinable public init(file: StaticString = #fileID, line: UInt32 = #line) {
        self.file = file
        self.line = line
    }

    public var description: String { "\(file):\(line)" }

    public static func == (left: SourcePlace, right: SourcePlace) -> Bool {
        left.line == right.line && left.file.hasSameText(as: right.file)
    }

    public func hash(into hasher: inout Hasher) {
        file.hashText(into: &hasher)
        hasher.combine(line)
    }
}

extension StaticString {
    func hasSameText(as other: StaticString) -> Bool {
        withUTF8Buffer { own in
            other.withUTF8Buffer { their in unsafe own.elementsEqual(their) }
        }
    }

    func hashText(into hasher: inout Hasher) {
        withUTF8Buffer { unsafe hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
    }
}
