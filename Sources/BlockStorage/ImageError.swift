public import LinuxHost

/// Why an image could not be opened or created.
///
/// The description is one line that says which file and what is wrong with it.
public enum ImageError: Error, Equatable, Sendable {
    case doesNotExist(path: String)
    case cannotOpen(path: String, Errno)
    case cannotCreate(path: String, Errno)
    /// Another open store, most often of another process, excludes this one.
    case isLocked(path: String)
    /// Neither a regular file nor a block device.
    case isNoImage(path: String)
    case isNoMultipleOfBlock(path: String, byteCount: UInt64, blockSize: BlockSize)
    case hasOtherSize(path: String, byteCount: UInt64, expected: UInt64)
}

extension ImageError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .doesNotExist(let path):
            "\(path): no such image, and none to be created without a size or read-only"
        case .cannotOpen(let path, let error):
            "\(path): cannot open the image: \(error)"
        case .cannotCreate(let path, let error):
            "\(path): cannot create the image: \(error)"
        case .isLocked(let path):
            "\(path): image is locked by another process"
        case .isNoImage(let path):
            "\(path): neither a regular file nor a block device"
        case .isNoMultipleOfBlock(let path, let byteCount, let blockSize):
            byteCount == 0
                ? "\(path): the image has no blocks: its size is 0"
                : "\(path): the size, \(byteCount) bytes, is not a multiple of the block size, \(blockSize.rawValue)"
        case .hasOtherSize(let path, let byteCount, let expected):
            "\(path): the image has \(byteCount) bytes and not \(expected)"
        }
    }
}
