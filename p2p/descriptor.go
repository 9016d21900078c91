package p2p

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"
)

// ChannelDescriptor says how the messages of a channel are sent and received.
// The zero value of a field is its default.
type ChannelDescriptor struct {
	// Name is for people, in logs and lists. Default: the number.
	Name string

	// Class is 0 to 3, and a lower class is sent first. Class 0 is for short and
	// urgent messages: while others wait, it gets at most a quarter of the bytes.
	Class uint8
	// Priority is 1 to 255: the weight among the channels of one class. Default 1.
	Priority uint8
	// SendQueueCapacity and SendQueueBytes bound what waits for one peer.
	// Defaults 1,024 messages, and 1 MiB or twice RecvMessageCapacity, whichever
	// is more.
	SendQueueCapacity, SendQueueBytes int
	// SendPolicy says what happens when that is full. Default: the new message is
	// refused.
	SendPolicy SendPolicy
	// SendTimeout drops a message that has waited so long without a byte of it
	// being sent. Default: never.
	SendTimeout time.Duration

	// RecvMessageCapacity is the longest message in bytes, both ways; a peer that
	// sends a longer one is disconnected. Default 1 MiB.
	RecvMessageCapacity int
	// RecvQueueCapacity and RecvQueueBytes bound what one peer may have waiting
	// for the receiver, RecvTotalBytes what all of them may. Defaults 1,024
	// messages; 1 MiB or twice RecvMessageCapacity, whichever is more; 16 times
	// that.
	RecvQueueCapacity, RecvQueueBytes, RecvTotalBytes int
	// ReceivePolicy says what happens when that is full. Default: the new message
	// is dropped. ReceivePause is refused on transports that have no flow control
	// for each channel.
	ReceivePolicy ReceivePolicy

	// Requests makes Request and Reply possible, with peers that want them on
	// this channel, too. Only OpenTyped takes it.
	Requests bool
}

// maxMessageCapacity bounds RecvMessageCapacity, 1 GiB, and the others are
// bounded so that no sum of them overflows.
const (
	maxMessageCapacity = 1 << 30
	maxQueueMessages   = math.MaxInt32 / 32
	maxQueueBytes      = math.MaxInt / 16
)

func (d ChannelDescriptor) withDefaults(id ChannelID) ChannelDescriptor {
	d.Name = cmp.Or(d.Name, fmt.Sprintf("%#02x", uint16(id)))
	d.Priority = cmp.Or(d.Priority, 1)
	d.RecvMessageCapacity = cmp.Or(d.RecvMessageCapacity, DefaultMaxMessage)
	d.SendQueueCapacity = cmp.Or(d.SendQueueCapacity, 1024)
	d.SendQueueBytes = cmp.Or(d.SendQueueBytes, max(1<<20, 2*d.RecvMessageCapacity))
	d.RecvQueueCapacity = cmp.Or(d.RecvQueueCapacity, 1024)
	d.RecvQueueBytes = cmp.Or(d.RecvQueueBytes, max(1<<20, 2*d.RecvMessageCapacity))
	d.RecvTotalBytes = cmp.Or(d.RecvTotalBytes, 16*d.RecvQueueBytes)
	return d
}

// validate reports every fault of a descriptor that has its defaults, joined.
func (d ChannelDescriptor) validate() error {
	var faults []error
	bad := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("p2p: channel %s: "+format, append([]any{d.Name}, args...)...))
	}
	if d.Class >= sendClasses {
		bad("Class is %d, at most %d", d.Class, sendClasses-1)
	}
	if d.SendPolicy > SendBlock {
		bad("unknown SendPolicy %d", d.SendPolicy)
	}
	if d.ReceivePolicy > ReceivePause {
		bad("unknown ReceivePolicy %d", d.ReceivePolicy)
	}
	if d.SendTimeout < 0 {
		bad("SendTimeout %v is negative", d.SendTimeout)
	}
	if d.RecvMessageCapacity < 1 || d.RecvMessageCapacity > maxMessageCapacity {
		bad("RecvMessageCapacity is %d, at least 1 and at most %d", d.RecvMessageCapacity, maxMessageCapacity)
		return errors.Join(faults...)
	}
	for _, q := range []struct {
		name           string
		n, least, most int
	}{
		{"SendQueueCapacity", d.SendQueueCapacity, 1, maxQueueMessages}, {"RecvQueueCapacity", d.RecvQueueCapacity, 1, maxQueueMessages},
		{"SendQueueBytes", d.SendQueueBytes, d.RecvMessageCapacity, maxQueueBytes},
		{"RecvQueueBytes", d.RecvQueueBytes, d.RecvMessageCapacity, maxQueueBytes},
		{"RecvTotalBytes", d.RecvTotalBytes, d.RecvQueueBytes, math.MaxInt},
	} {
		if q.n < q.least || q.n > q.most {
			bad("%s is %d, at least %d and at most %d", q.name, q.n, q.least, q.most)
		}
	}
	return errors.Join(faults...)
}

// ChannelOption changes what OpenChannel and OpenTyped open.
type ChannelOption func(*ChannelDescriptor)

// WithDescriptor sets the whole descriptor.
func WithDescriptor(d ChannelDescriptor) ChannelOption {
	return func(old *ChannelDescriptor) { *old = d }
}

// WithRequests is ChannelDescriptor.Requests, for OpenTyped only.
func WithRequests() ChannelOption {
	return func(d *ChannelDescriptor) { d.Requests = true }
}
