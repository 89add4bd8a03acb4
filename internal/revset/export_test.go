package revset

// SearchLength returns how many groups the search for an absent key looks at
// in the most crowded shard, on average.
func (s *Set) SearchLength() (worst float64) {
	for i := range s.shards {
		t := s.shards[i].Load()
		looked := 0
		for home := range t.tags {
			at := home
			for t.tags[at%len(t.tags)]&overflowed != 0 {
				at++
			}
			looked += at - home + 1
		}
		worst = max(worst, float64(looked)/float64(max(len(t.tags), 1)))
	}
	return worst
}
