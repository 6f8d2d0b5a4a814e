import DMA
import SVA
import Testing

@Suite struct `PASIDs` {
    @Test func `R108 zero and what does not fit twenty bits are no PASIDs`() {
        #expect(PASID(rawValue: 0) == nil)
        #expect(PASID(rawValue: 1)?.rawValue == 1)
        #expect(PASID(rawValue: (1 << 20) - 1) != nil)
        #expect(PASID(rawValue: 1 << 20) == nil)
        #expect(PASID(rawValue: .max) == nil)
    }

    @Test func `a group index has nine bits`() {
        #expect(PageRequestGroupIndex(rawValue: 511) != nil)
        #expect(PageRequestGroupIndex(rawValue: 512) == nil)
    }

    @Test func `a request is for the page that its address is in`() {
        let request = PageRequest(pasid: nil, address: iova(.max), rights: .read, group: index(0), isLast: true)
        #expect(request.page.rawValue == UInt64.max - 4095)
        #expect(request.range.last.rawValue == UInt64.max)
        #expect(!request.isStopMarker)
    }
}
