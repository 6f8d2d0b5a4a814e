/// What threads took while they held something else: the orders between classes that the program was seen to use.
///
/// Classes are numbered in the order they were met. An edge from one class to another says that the second was taken
/// while the first was held; of equal edges the first is kept.
struct LockGraph {
    struct Edge {
        /// What makes it another edge than those known.
        struct Key: Hashable {
            let held: Int
            let heldMode: LockChecker.Mode
            let taken: Int
            let takenMode: LockChecker.Mode
        }

        let key: Key
        let heldPlace: SourcePlace
        let takenPlace: SourcePlace
        let thread: String
    }

    private(set) var classes: [LockClass] = []
    private var numbers: [LockClass: Int] = [:]
    private var known: Set<Edge.Key> = []
    /// The edges that leave each class.
    private var leaving: [[Edge]] = []

    mutating func number(of lockClass: LockClass) -> Int {
        if let number = numbers[lockClass] { return number }
        numbers[lockClass] = classes.count
        classes.append(lockClass)
        leaving.append([])
        return classes.count - 1
    }

    /// Adds an edge between two different classes. Returns a shortest cycle that it closes in which each thread could
    /// keep the one before it waiting, beginning with the new edge; `nil` when there is none or the edge was known.
    mutating func add(_ edge: Edge) -> [Edge]? {
        guard known.insert(edge.key).inserted else { return nil }
        leaving[edge.key.held].append(edge)
        return path(to: edge).map { [edge] + $0 }
    }

    /// What was taken while the class was held, each class once, in the order in which that was first seen.
    func classesTaken(inside lockClass: LockClass) -> [LockClass] {
        guard let number = numbers[lockClass] else { return [] }
        var taken: [LockClass] = []
        for edge in leaving[number] where !taken.contains(classes[edge.key.taken]) {
            taken.append(classes[edge.key.taken])
        }
        return taken
    }

    /// A shortest way from where an edge ends to where it begins. Search in breadth over classes, each with the mode in
    /// which the edge before took it: an edge continues only if holding the class as it does can delay that.
    private func path(to last: Edge) -> [Edge]? {
        var steps = [Step(edge: last, previous: nil)]
        var visited: Set<Visit> = []
        var next = 0
        while next < steps.count {
            let arrival = steps[next].edge.key
            for edge in leaving[arrival.taken]
            where classes[arrival.taken].conflicts(arrival.takenMode, edge.key.heldMode) {
                if edge.key.taken == last.key.held,
                    classes[edge.key.taken].conflicts(edge.key.takenMode, last.key.heldMode)
                {
                    return way(to: Step(edge: edge, previous: next), in: steps)
                }
                let visit = Visit(lockClass: edge.key.taken, mode: edge.key.takenMode)
                if visited.insert(visit).inserted { steps.append(Step(edge: edge, previous: next)) }
            }
            next += 1
        }
        return nil
    }

    /// The edges that led to a step, without the one that the search began with.
    private func way(to end: Step, in steps: [Step]) -> [Edge] {
        var edges: [Edge] = []
        var step = end
        while let previous = step.previous {
            edges.append(step.edge)
            step = steps[previous]
        }
        return edges.reversed()
    }

    private struct Step {
        let edge: Edge
        let previous: Int?
    }

    private struct Visit: Hashable {
        let lockClass: Int
        let mode: LockChecker.Mode
    }
}
