import LinuxHost

extension CheckItem {
    /// S84 to S86: optional features as such.
    static let features: [CheckItem] = [
        CheckItem(
            84, "The feature of shared buffers is never granted; QEMU would take the success for a descriptor.",
            in: "what QEMU's hw/vfio does with the answer", for: [.qemu, .robustness]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            try connection.refuse(
                Number.deviceFeature,
                Payload.feature(
                    Feature.sharedBuffer, Feature.get, argsz: 4096,
                    bytes(.u32(0), .u32(0), .u32(0), .u32(1), .u64(0), .u64(4096))),
                because: "a feature that the protocol cannot carry")
        },
        CheckItem(
            85, "A question for a feature that makes no sense is refused.", in: "VFIO_USER_DEVICE_FEATURE",
            for: [.specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            let known = server.survey.offersMigration ? Feature.migration : 0x4000
            for (payload, reason) in [
                (Payload.feature(0x7fff, Feature.get, argsz: 64), "a feature that nobody knows"),
                (Payload.feature(known, 0, argsz: 64), "no operation"),
                (Payload.feature(known, Feature.get | Feature.set, argsz: 64), "getting and setting at once"),
                (Array(Payload.feature(known, Feature.probe).dropLast()), "a payload of 7 bytes"),
                (Payload.feature(known, Feature.get, argsz: 7), "argsz 7"),
                (
                    Payload.feature(known, Feature.set | Feature.probe, argsz: 8, [1, 2, 3, 4]),
                    "argsz below the payload"
                ),
            ] {
                try connection.refuse(Number.deviceFeature, payload, because: reason)
            }
        },
        CheckItem(
            86, "Probing repeats the request for a feature that exists and is refused for any other.",
            in: "VFIO_USER_DEVICE_FEATURE", for: [.specification]
        ) { (server) throws(Outcome) in
            let connection = try server.session()
            for feature in [1, 2, 6, 7, 8, 9, 10, 0x7fff] as [UInt32] {
                for operation in [Feature.get, Feature.set] {
                    let payload = Payload.feature(feature, operation | Feature.probe)
                    let reply = try connection.call(Number.deviceFeature, payload)
                    guard reply.error != nil || reply.payload == payload else {
                        throw connection.fails("the request again, or an error", "\(reply)")
                    }
                    if feature > 8, feature != 9, feature != 10, reply.error == nil {
                        throw connection.fails("an error for a feature that nobody knows", "\(reply)")
                    }
                }
            }
        },
    ]
}
