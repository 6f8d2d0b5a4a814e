import CJSONC

/// What bounds a text from outside before it is read.
public struct JSONLimits: Sendable {
    public var maximumByteCount: Int
    public var maximumDepth: Int

    /// Precondition: the depth is positive, and the length leaves JSON-C's 32-bit count room for a NUL.
    public init(maximumByteCount: Int = 1 << 20, maximumDepth: Int = 16) {
        precondition(maximumDepth > 0 && maximumByteCount < Int(Int32.max), "limits beyond JSON-C")
        self.maximumByteCount = maximumByteCount
        self.maximumDepth = maximumDepth
    }
}

extension JSONValue {
    /// Reads a text, which is all of `text`: white space may surround the value, nothing else.
    public init(parsing text: [UInt8], limits: JSONLimits = JSONLimits()) throws(JSONError) {
        if text.count > limits.maximumByteCount { throw .tooLong(maximumByteCount: limits.maximumByteCount) }
        // JSON-C checks no more than the leading bits, so it takes overlong forms and surrogates.
        if String(validating: text, as: UTF8.self) == nil { throw .notUTF8 }
        let scan = try JSONScanner(scanning: text)
        let tokener = try Tokener(maximumDepth: limits.maximumDepth)
        let tree = try tokener.parse(text, maximumDepth: limits.maximumDepth)
        var memberCount = 0
        self = try unsafe JSONValue(copying: tree.pointer, memberCount: &memberCount)
        if memberCount != scan.memberCount { throw .duplicateName }
    }

    /// The text without white space.
    public func text() throws(JSONError) -> [UInt8] {
        let tree = try Tree(building: self)
        return try tree.text()
    }

    /// Copies what `pointer` is the root of; nil is JSON-C's `null`. The tree is no deeper than the limit it was read with.
    private init(copying pointer: OpaquePointer?, memberCount: inout Int) throws(JSONError) {
        switch unsafe json_object_get_type(pointer) {
        case json_type_boolean:
            self = .boolean(unsafe json_object_get_boolean(pointer) != 0)
        case json_type_int:
            // A value past Int64 reads as positive either way; the scan has made sure that nothing was clamped.
            let signed = unsafe json_object_get_int64(pointer)
            self = .integer(signed < 0 ? Int128(signed) : Int128(unsafe json_object_get_uint64(pointer)))
        case json_type_double:
            let number = unsafe json_object_get_double(pointer)
            if !number.isFinite { throw .numberOutOfRange(offset: 0) }
            self = .decimal(number)
        case json_type_string:
            self = .string(unsafe JSONValue.copyString(pointer))
        case json_type_array:
            var elements: [JSONValue] = []
            for index in 0..<(unsafe json_object_array_length(pointer)) {
                elements.append(
                    try unsafe JSONValue(
                        copying: json_object_array_get_idx(pointer, index), memberCount: &memberCount))
            }
            self = .array(elements)
        case json_type_object:
            var members: [Member] = []
            var iterator = unsafe json_object_iter_begin(pointer)
            var end = unsafe json_object_iter_end(pointer)
            while unsafe json_object_iter_equal(&iterator, &end) == 0 {
                // The object owns the name, which it does not change while the iterator stands on it.
                let name = unsafe String(cString: json_object_iter_peek_name(&iterator))
                let value = try unsafe JSONValue(
                    copying: json_object_iter_peek_value(&iterator), memberCount: &memberCount)
                members.append(Member(name, value))
                unsafe json_object_iter_next(&iterator)
            }
            memberCount += members.count
            self = .object(members)
        default:
            self = .null
        }
    }

    private static func copyString(_ pointer: OpaquePointer?) -> String {
        guard let start = unsafe json_object_get_string(pointer) else { return "" }
        let count = Int(unsafe json_object_get_string_len(pointer))
        // The object owns these bytes and outlives the copy.
        let bytes = unsafe UnsafeBufferPointer(start: start, count: count)
        return unsafe String(decoding: bytes.lazy.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// Owns a `json_tokener`.
@safe private struct Tokener: ~Copyable {
    private let pointer: UnsafeMutablePointer<json_tokener>

    init(maximumDepth: Int) throws(JSONError) {
        guard let pointer = unsafe json_tokener_new_ex(Int32(maximumDepth)) else { throw .outOfMemory }
        unsafe self.pointer = pointer
        unsafe json_tokener_set_flags(pointer, JSON_TOKENER_STRICT)
    }

    deinit {
        unsafe json_tokener_free(pointer)
    }

    func parse(_ text: [UInt8], maximumDepth: Int) throws(JSONError) -> Tree {
        // With the NUL, or JSON-C would wait for the end of a bare number.
        let terminated = text + [0]
        let root = unsafe terminated.withUnsafeBytes { bytes in
            unsafe json_tokener_parse_ex(pointer, bytes.baseAddress, Int32(bytes.count))
        }
        let tree = unsafe Tree(adopting: root)
        let end = unsafe json_tokener_get_parse_end(pointer)
        switch unsafe json_tokener_get_error(pointer) {
        case json_tokener_success: break
        case json_tokener_error_depth: throw .nestedTooDeep(maximumDepth: maximumDepth)
        case json_tokener_continue, json_tokener_error_parse_eof: throw .unexpectedEnd
        default: throw .malformed(offset: min(end, text.count))
        }
        if end != text.count { throw .unexpectedByte(offset: end) }
        return tree
    }
}

/// Owns one reference to the root of a tree of `json_object`; nil is `null`.
@safe private struct Tree: ~Copyable {
    @unsafe let pointer: OpaquePointer?

    init(adopting pointer: OpaquePointer?) {
        unsafe self.pointer = pointer
    }

    init(building value: JSONValue) throws(JSONError) {
        let pointer: OpaquePointer?
        switch value {
        case .null: unsafe pointer = nil
        case .boolean(let value): unsafe pointer = json_object_new_boolean(value ? 1 : 0)
        case .integer(let number):
            if let signed = Int64(exactly: number) {
                unsafe pointer = json_object_new_int64(signed)
            } else if let unsigned = UInt64(exactly: number) {
                unsafe pointer = json_object_new_uint64(unsigned)
            } else {
                throw .numberOutOfRange(offset: 0)
            }
        case .decimal(let number): unsafe pointer = json_object_new_double(number)
        case .string(let string): unsafe pointer = Tree.newString(string)
        case .array(let elements): unsafe pointer = try Tree.newArray(elements)
        case .object(let members): unsafe pointer = try Tree.newObject(members)
        }
        if unsafe pointer == nil && value != .null { throw .outOfMemory }
        unsafe self.pointer = pointer
    }

    deinit {
        unsafe json_object_put(pointer)
    }

    func text() throws(JSONError) -> [UInt8] {
        var count = 0
        let flags = JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE
        guard let start = unsafe json_object_to_json_string_length(pointer, flags, &count) else { throw .outOfMemory }
        // The root owns these bytes and outlives the copy.
        let bytes = unsafe UnsafeBufferPointer(start: start, count: count)
        return unsafe bytes.map { UInt8(bitPattern: $0) }
    }

    /// Gives the reference to the caller, as JSON-C's containers want it.
    private consuming func take() -> OpaquePointer? {
        let taken = unsafe pointer
        discard self
        return unsafe taken
    }

    private static func newString(_ string: String) -> OpaquePointer? {
        let bytes = Array(string.utf8)
        return unsafe bytes.withUnsafeBytes { bytes in
            unsafe json_object_new_string_len(
                bytes.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(bytes.count))
        }
    }

    private static func newArray(_ elements: [JSONValue]) throws(JSONError) -> OpaquePointer? {
        let array = unsafe Tree(adopting: json_object_new_array())
        for element in elements {
            let child = unsafe try Tree(building: element).take()
            if unsafe json_object_array_add(array.pointer, child) != 0 {
                unsafe json_object_put(child)
                throw .outOfMemory
            }
        }
        return unsafe array.take()
    }

    private static func newObject(_ members: [JSONValue.Member]) throws(JSONError) -> OpaquePointer? {
        let object = unsafe Tree(adopting: json_object_new_object())
        for member in members {
            let child = unsafe try Tree(building: member.value).take()
            if unsafe json_object_object_add(object.pointer, member.name, child) != 0 {
                unsafe json_object_put(child)
                throw .outOfMemory
            }
        }
        return unsafe object.take()
    }
}
