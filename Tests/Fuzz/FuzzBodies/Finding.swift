/// Something that must not be: a property that an input breaks.
public struct Finding: Error, CustomStringConvertible {
    public let description: String

    public init(_ description: String) { self.description = description }
}

func require(_ isTrue: Bool, _ description: @autoclosure () -> String) throws(Finding) {
    if !isTrue { throw Finding(description()) }
}
