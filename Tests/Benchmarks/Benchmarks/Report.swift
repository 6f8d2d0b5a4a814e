/// What the measurements found, written as they end: Markdown tables, or a line of JSON for each figure.
struct Report {
    let isJSON: Bool

    func write(_ text: String) {
        if !isJSON { Output.write(text + "\n") }
    }

    /// The heading of a measurement and how it is made.
    func begin(_ title: String, _ explanation: String) {
        write("\n### \(title)\n\n\(explanation)")
    }

    /// A table of one figure for each contender, of which the first is compared with the others.
    ///
    /// - Parameter rows: a label, and the contenders' figures in their order.
    func table(
        _ name: String, unit: String, heading: String, contenders: [ContenderKind], rows: [(String, [Figures])]
    ) {
        self.table(name, unit: unit, heading: heading, columns: contenders.map(\.name), rows: rows)
    }

    /// The same with contenders of any kind, of whom some may have no figure in some row.
    func table(_ name: String, unit: String, heading: String, columns: [String], rows: [(String, [Figures?])]) {
        var table = MarkdownTable([heading] + columns)
        for (label, figures) in rows {
            var cells = [label]
            for (number, figure) in figures.enumerated() {
                guard let figure else {
                    cells.append("–")
                    continue
                }
                record(name, label, columns[number], unit, figure)
                var ratio = ""
                if number > 0, let first = figures[0] { ratio = " ×" + decimal(first.ratio(to: figure), digits: 2) }
                cells.append(figure.text + ratio)
            }
            table.add(cells)
        }
        write(table.text)
    }

    func record(_ name: String, _ row: String, _ column: String, _ unit: String, _ figure: Figures) {
        guard isJSON else { return }
        let labels = [("measurement", name), ("row", row), ("column", column), ("unit", unit)]
        let numbers = [("median", figure.median), ("lowest", figure.lowest), ("highest", figure.highest)]
        let members = labels.map { "\"\($0)\":\"\($1)\"" } + numbers.map { "\"\($0)\":\($1)" }
        Output.write("{" + members.joined(separator: ",") + "}\n")
    }
}

extension Figures {
    /// Median, lowest and highest.
    var text: String { "\(decimal(median)) (\(decimal(lowest))–\(decimal(highest)))" }
}

/// A table whose cells are aligned, so that it can be read as it is.
struct MarkdownTable {
    private var rows: [[String]]

    init(_ heading: [String]) { rows = [heading] }

    mutating func add(_ cells: [String]) { rows.append(cells) }

    var text: String {
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        var lines = rows.map { row in
            "| " + zip(row, widths).map { $0 + String(repeating: " ", count: $1 - $0.count) }.joined(separator: " | ")
                + " |"
        }
        let rule = widths.enumerated().map { index, width in
            String(repeating: "-", count: width - 1) + (index == 0 ? "-" : ":")
        }
        lines.insert("| " + rule.joined(separator: " | ") + " |", at: 1)
        return lines.joined(separator: "\n")
    }
}

/// A number as people read it: with as many digits behind the point as three digits in all leave, or as asked for, and
/// spaces between thousands.
func decimal(_ number: Double, digits: Int? = nil) -> String {
    guard number.isFinite, abs(number) < 1e15 else { return "\(number)" }
    let digits = digits ?? (abs(number) < 10 ? 2 : abs(number) < 100 ? 1 : 0)
    let scale = [1, 10, 100, 1000][digits]
    let scaled = Int((abs(number) * Double(scale)).rounded())
    var whole = String(scaled / scale)
    var groups: [String] = []
    while whole.count > 3 {
        groups.insert(String(whole.suffix(3)), at: 0)
        whole.removeLast(3)
    }
    whole = ([whole] + groups).joined(separator: " ")
    let sign = number < 0 ? "-" : ""
    guard digits > 0 else { return sign + whole }
    let fraction = String(scaled % scale)
    return sign + whole + "." + String(repeating: "0", count: digits - fraction.count) + fraction
}
