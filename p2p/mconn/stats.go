package mconn

// Stats are the counters of a connection since it began.
type Stats struct {
	Received, Sent DirectionStats
	Faults         Faults // what the peer ended the connection with: one of them is 1, or none
}

// DirectionStats count one direction. Bytes are those of the wire, with all
// framing; Blocks are system calls; Messages are whole ones. What is
// counted while a block is handled appears with the next block.
type DirectionStats struct {
	Bytes, Blocks, Frames, Packets, Messages int64
	// Pings and Pongs are among Packets. Pongs sent may be fewer than pings
	// received: those that come within 100 ms share one.
	Pings, Pongs int64
}

// Stats returns the counters. It may be called from any goroutine, also after
// the end.
func (c *Connection) Stats() Stats {
	own := newFaultCounts()
	if i := c.fault.Load(); i > 0 {
		own[i-1].Store(1)
	}
	return Stats{
		Faults: own.faults(),
		Received: DirectionStats{
			Bytes: c.read.bytes.Load(), Blocks: c.read.reads.Load(), Frames: c.read.frames.Load(), Packets: c.read.packets.Load(),
			Messages: c.read.messages.Load(), Pings: c.read.pings.Load(), Pongs: c.read.pongs.Load(),
		},
		Sent: DirectionStats{
			Bytes: c.wrote.bytes.Load(), Blocks: c.wrote.writes.Load(), Frames: c.wrote.frames.Load(), Packets: c.wrote.packets.Load(),
			Messages: c.wrote.messages.Load(), Pings: c.wrote.pings.Load(), Pongs: c.wrote.pongs.Load(),
		},
	}
}
