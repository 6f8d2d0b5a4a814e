import DMA

/// Two lists of mappings side by side, with a mark at each line in which they differ; the lines around those are left
/// out.
struct Drawing {
    let lines: [String]

    init(_ left: [MappingSnapshot], _ right: [MappingSnapshot], around: Int = 4) {
        var rows: [(left: MappingSnapshot?, right: MappingSnapshot?)] = []
        var (l, r) = (0, 0)
        while l < left.count || r < right.count {
            let first = [left.dropFirst(l).first, right.dropFirst(r).first].compactMap { $0?.range.first }.min()
            let isLeft = l < left.count && left[l].range.first == first
            let isRight = r < right.count && right[r].range.first == first
            rows.append((isLeft ? left[l] : nil, isRight ? right[r] : nil))
            l += isLeft ? 1 : 0
            r += isRight ? 1 : 0
        }
        let different = rows.indices.filter { rows[$0].left != rows[$0].right }
        var lines: [String] = []
        var isGap = false
        for (index, row) in rows.enumerated() {
            guard rows.count <= 2 * around || different.contains(where: { abs($0 - index) <= around }) else {
                if !isGap { lines.append("    ...") }
                isGap = true
                continue
            }
            isGap = false
            let (left, right) = (row.left.map { "\($0)" } ?? "-", row.right.map { "\($0)" } ?? "-")
            let padding = String(repeating: " ", count: max(1, 48 - left.count))
            lines.append((row.left == row.right ? "    " : "  * ") + left + padding + "| " + right)
        }
        self.lines = lines
    }
}
