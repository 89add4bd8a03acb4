package issuer

import (
	"crypto/subtle"
	"encoding/base64"
	"regexp"
	"strconv"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// passwordHash is the hash of a password as the store has it: one that we made,
// or one that was imported.
type passwordHash struct {
	current bool // made with the parameters of today
	matches func(password string) bool
}

// Bounds of what an imported hash may cost at each login that is checked
// against it: about a second of one core, and the memory of a few of ours.
const (
	maxBcryptCost   = 14
	maxArgon2Memory = 128 << 10 // KiB
	maxArgon2Filled = 512 << 10 // KiB, over all passes
	maxArgon2Lanes  = 16
	// minArgon2Lane is what a lane takes, though less be stated (RFC 9106, section 3.1).
	minArgon2Lane = 8 // KiB
)

// maxHash bounds the text of a hash in octets.
const maxHash = 256

var (
	bcryptForm = regexp.MustCompile(`^\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}$`)
	// argon2Form is the PHC string format with the parameters in their order.
	argon2Form = regexp.MustCompile(`^\$(argon2id?)\$v=19\$m=([0-9]{1,9}),t=([0-9]{1,9}),p=([0-9]{1,3})\$([+/A-Za-z0-9]+)\$([+/A-Za-z0-9]+)$`)
)

// parseHash reads a hash, and refuses one that costs too much.
func parseHash(text string) (passwordHash, error) {
	if len(text) <= maxHash {
		if m := bcryptForm.FindStringSubmatch(text); m != nil {
			return parseBcrypt(text, m[1])
		}
		if m := argon2Form.FindStringSubmatch(text); m != nil {
			return parseArgon2(m[1:])
		}
	}
	return passwordHash{}, refuse(CodeInvalid, "password_hash: want bcrypt ($2a$, $2b$ or $2y$), or Argon2id or Argon2i as $argon2id$v=19$m=…,t=…,p=…$salt$hash; leave others out and set those passwords anew")
}

// parseBcrypt reads what takes the first 72 octets of a password for the whole,
// as the system did that it comes from.
func parseBcrypt(text, cost string) (passwordHash, error) {
	n, err := bcrypt.Cost([]byte(text))
	if err != nil || n > maxBcryptCost {
		return passwordHash{}, refuse(CodeInvalid, "password_hash: bcrypt of cost %s: want 4 to %d, so that no login takes longer than about a second", cost, maxBcryptCost)
	}
	return passwordHash{matches: func(password string) bool {
		return bcrypt.CompareHashAndPassword([]byte(text), []byte(password)) == nil
	}}, nil
}

// parseArgon2 reads the variant, memory, passes, lanes, salt and key.
func parseArgon2(field []string) (passwordHash, error) {
	var cost [3]uint64
	for i := range cost {
		cost[i], _ = strconv.ParseUint(field[i+1], 10, 32) // digits, as many as fit
	}
	memory, passes, lanes := cost[0], cost[1], cost[2]
	if memory < minArgon2Lane*lanes || memory > maxArgon2Memory || passes == 0 || memory*passes > maxArgon2Filled || lanes == 0 || lanes > maxArgon2Lanes {
		return passwordHash{}, refuse(CodeInvalid, "password_hash: Argon2 with m=%d, t=%d, p=%d: want m of %d times p to %d, m times t of at most %d, and p of at most %d, so that no login takes longer than about a second",
			memory, passes, lanes, minArgon2Lane, maxArgon2Memory, maxArgon2Filled, maxArgon2Lanes)
	}
	salt, err := base64.RawStdEncoding.Strict().DecodeString(field[4])
	key, keyErr := base64.RawStdEncoding.Strict().DecodeString(field[5])
	if err != nil || keyErr != nil || len(salt) < 8 || len(salt) > 64 || len(key) < 16 || len(key) > 64 {
		return passwordHash{}, refuse(CodeInvalid, "password_hash: want a salt of 8 to 64 octets and a hash of 16 to 64, both in base64 without padding")
	}
	derive, ours := argon2.Key, field[0] == "argon2id"
	if ours {
		derive = argon2.IDKey
	}
	ours = ours && memory == uint64(hashing.Memory) && passes == uint64(hashing.Iterations) && lanes == uint64(hashing.Parallelism)
	return passwordHash{
		current: ours && len(salt) == int(hashing.SaltLength) && len(key) == int(hashing.KeyLength),
		matches: func(password string) bool {
			got := derive([]byte(password), salt, uint32(passes), uint32(memory), uint8(lanes), uint32(len(key)))
			return subtle.ConstantTimeCompare(got, key) == 1
		},
	}, nil
}
