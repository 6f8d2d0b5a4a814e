import RuleTables

/// The rules of shared address spaces and page faults by number, what each demands, and why one has no test here.
///
/// R93 to R110 are those of contexts and bindings, R111 to R145 those of page faults, S1 to S12 those of what joins them:
/// page requests, and the order of a removal. Tests name the rules that they show in front of their names. `RulesTests`
/// makes the table in the module's documentation of both.
extension Rule {
    static let all = bindings + faults + channel + requests

    private static let bindings: [Rule] = [
        Rule("R93", "A device that is not there is not bound."),
        Rule("R94", "The first bind gives a context a PASID within the device's limit."),
        Rule("R95", "A context whose PASID the device cannot use is not bound."),
        Rule("R96", "A context that devices cannot share, or is dead, is not bound."),
        Rule("R97", "Binding the same two again counts a user of the same handle."),
        Rule("R98", "A PASID that is attached otherwise is busy."),
        Rule("R99", "Devices share a domain of the context if it fits them."),
        Rule("R100", "A bind that fails changes nothing but the context's PASID."),
        Rule("R101", "Only the last unbind detaches, and the last device frees the domain."),
        Rule("R102", "Unbinding one device leaves the others of the context."),
        Rule("R103", "Two contexts on a device have two handles and two PASIDs."),
        Rule("R104", "Binds and unbinds of many threads attach and detach once."),
        Rule("R105", "A PASID lives as long as its context, not its binding."),
        Rule("R106", "A domain keeps a context, and each fault its life."),
        Rule("R107", "A PASID is free only when its faults are dealt with."),
        Rule("R108", "What cannot be attached to a PASID is refused for its reason."),
        Rule("R109", "A replacement that fails changes nothing; during a reset none is made."),
        Rule("R110", "A handle has its PASID from the bind to the last unbind."),
    ]

    private static let faults: [Rule] = [
        Rule("R111", "A device is added to one queue, if it can be answered."),
        Rule("R112", "Pending faults that are being removed are not found."),
        Rule("R113", "A request that nobody takes is answered invalid."),
        Rule("R114", "A request of a device at no queue is answered invalid."),
        Rule("R115", "A fault goes to its PASID's attachment, or to who owns PASIDs."),
        Rule("R116", "A request that is not the last of its group is kept."),
        Rule("R117", "The last request makes a group of all, in order of arrival."),
        Rule("R118", "Requests of other groups stay."),
        Rule("R119", "A handler that refuses makes the answer failure."),
        Rule("R120", "A handler that accepts answers once."),
        Rule("R121", "Handlers are called without a lock."),
        Rule("R122", "Groups are handled in any order, the faults of one in theirs."),
        Rule("R123", "A group has one answer, with its index and PASID."),
        Rule("R124", "Pages that are not there, or not with the rights, are invalid."),
        Rule("R125", "Success retries, invalid gives up, failure stops requests."),
        Rule("R126", "Only the first answer of a group is given."),
        Rule("R127", "The device is answered under the lock of its pending faults."),
        Rule("R128", "Removing a device answers everything once and never fails."),
        Rule("R129", "A removal keeps an order."),
        Rule("R130", "What a late handler holds is there until it lets go."),
        Rule("R131", "A flush waits for the work that was there before it."),
        Rule("R132", "A flush comes before a PASID is used again."),
        Rule("R133", "Discarding forgets incomplete groups of all devices."),
        Rule("R134", "A last request whose group was discarded makes its own group."),
        Rule("R135", "Stopping a queue removes its devices, then waits for its threads."),
        Rule("R136", "Stop markers are dropped."),
        Rule("R137", "A last request that nobody takes takes its group along."),
    ]

    private static let channel: [Rule] = [
        Rule("R138", "Groups are delivered whole, or stay."),
        Rule("R139", "Answers are taken up to the first that is bad."),
        Rule("R140", "A cookie answers once."),
        Rule("R141", "A group that could not be delivered is the next again."),
        Rule("R142", "The end of an attachment answers its groups."),
        Rule("R143", "The end of the channel answers what is left."),
        Rule("R144", "A channel is readable while a group waits to be delivered."),
        Rule("R145", "A group that is not answered in time is answered invalid."),
    ]

    private static let requests: [Rule] = [
        Rule("S1", "A group index is used again only after its answer."),
        Rule("S2", "No more requests are outstanding than there are credits."),
        Rule("S3", "A group that is never completed is never answered."),
        Rule("S4", "An answer carries a PASID if the device asked for it."),
        Rule("S5", "A page may be gone again after success."),
        Rule("S6", "An access that cannot ask is unrecoverable, and only told of."),
        Rule("S7", "A handler never blocks for ever."),
        Rule("S8", "A removal answers each group once, and keeps its steps."),
        Rule("S9", "A surprise removal does the same and waits for nobody."),
        Rule("S10", "A reset keeps the bindings and starts again."),
        Rule("S11", "A context may exit while it is bound."),
        Rule("S12", "The last unbind flushes, clears, and then frees."),
    ]
}
