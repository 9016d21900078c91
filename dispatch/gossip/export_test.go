package gossip

// Open is how many topics are open.
func (b *Backend) Open() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.topics)
}
