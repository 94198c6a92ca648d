package wire

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The error codes of RFC 4271 section 4.5, RFC 7313 and RFC 9687.
const (
	CodeHeader           uint8 = 1
	CodeOpen             uint8 = 2
	CodeUpdate           uint8 = 3
	CodeHoldTimer        uint8 = 4
	CodeStateMachine     uint8 = 5
	CodeCease            uint8 = 6
	CodeRouteRefresh     uint8 = 7
	CodeSendHoldTimer    uint8 = 8
	SubcodeUnspecific    uint8 = 0
	maxShutdownTextBytes       = 255
)

// Subcodes of CodeHeader.
const (
	SubcodeNotSynchronized uint8 = 1
	SubcodeBadLength       uint8 = 2
	SubcodeBadType         uint8 = 3
)

// Subcodes of CodeOpen.
const (
	SubcodeVersion               uint8 = 1
	SubcodeBadPeerAS             uint8 = 2
	SubcodeBadIdentifier         uint8 = 3
	SubcodeOptionalParameter     uint8 = 4
	SubcodeHoldTime              uint8 = 6
	SubcodeUnsupportedCapability uint8 = 7
)

// Subcodes of CodeStateMachine (RFC 6608).
const (
	SubcodeUnexpectedInOpenSent    uint8 = 1
	SubcodeUnexpectedInOpenConfirm uint8 = 2
	SubcodeUnexpectedInEstablished uint8 = 3
)

// Subcodes of CodeCease (RFC 4486, RFC 8538, RFC 9384).
const (
	SubcodeMaxPrefixes        uint8 = 1
	SubcodeAdminShutdown      uint8 = 2
	SubcodeDeconfigured       uint8 = 3
	SubcodeAdminReset         uint8 = 4
	SubcodeConnectionRejected uint8 = 5
	SubcodeConfigChange       uint8 = 6
	SubcodeCollision          uint8 = 7
	SubcodeOutOfResources     uint8 = 8
	SubcodeHardReset          uint8 = 9
	SubcodeBFDDown            uint8 = 10
)

// A Notification says why a session ends.
type Notification struct {
	Code, Subcode uint8
	// Data is what the codes say it is; nil if there is none.
	Data []byte
}

// An Error is what is wrong with a message, and the NOTIFICATION that tells its
// sender so.
type Error struct {
	Notification Notification
	what         string
}

// Error implements error.
func (e *Error) Error() string { return e.what }

func newError(code, subcode uint8, data []byte, format string, args ...any) *Error {
	return &Error{
		Notification: Notification{Code: code, Subcode: subcode, Data: append([]byte(nil), data...)},
		what:         fmt.Sprintf(format, args...),
	}
}

// Shutdown returns a Cease with a message for the peer's operator (RFC 9003),
// shortened to the 255 bytes that fit. The subcode is SubcodeAdminShutdown or
// SubcodeAdminReset.
func Shutdown(subcode uint8, text string) Notification {
	text = strings.ToValidUTF8(text, "")
	for len(text) > maxShutdownTextBytes {
		_, n := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-n]
	}
	return Notification{Code: CodeCease, Subcode: subcode, Data: append([]byte{byte(len(text))}, text...)}
}

// Text returns the message for the operator, if the notification has one (RFC
// 9003 section 2). It is as the peer wrote it: see String for what to show.
func (n Notification) Text() string {
	if n.Code != CodeCease || n.Subcode != SubcodeAdminShutdown && n.Subcode != SubcodeAdminReset || len(n.Data) == 0 {
		return ""
	}
	if length := int(n.Data[0]); length == len(n.Data)-1 && utf8.Valid(n.Data[1:]) {
		return string(n.Data[1:])
	}
	return ""
}

// String returns the names of code and subcode and the text, fit to be shown.
func (n Notification) String() string {
	code, ok := codeNames[n.Code]
	if !ok {
		code = fmt.Sprintf("code %d", n.Code)
	}
	sub, ok := subcodeNames[[2]uint8{n.Code, n.Subcode}]
	switch {
	case ok:
		code += ": " + sub
	case n.Subcode != 0:
		code += fmt.Sprintf(": subcode %d", n.Subcode)
	}
	if text := n.Text(); text != "" {
		code += ": " + printable(text)
	}
	return code
}

// printable makes a text that a stranger wrote fit for a log or a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// Clone returns a copy that shares no memory with n.
func (n Notification) Clone() Notification {
	n.Data = append([]byte(nil), n.Data...)
	return n
}

// Canonical returns n with only such data as this package understands, which
// is the text.
func (n Notification) Canonical() Notification {
	if text := n.Text(); text != "" {
		return Shutdown(n.Subcode, text)
	}
	return Notification{Code: n.Code, Subcode: n.Subcode}
}

// ParseNotification reads a whole message. As nobody answers a NOTIFICATION
// with another, its error is only for the log (RFC 4271 section 6.4).
func ParseNotification(msg []byte) (Notification, error) {
	b, err := body(msg, TypeNotification)
	if err != nil {
		return Notification{}, err
	}
	n := Notification{Code: b[0], Subcode: b[1], Data: b[2:]}
	return n.Clone(), nil
}

// Append appends the message that says n. Data beyond the length of a message
// is cut off.
func (n Notification) Append(b []byte) []byte {
	b, at := appendHeader(b, TypeNotification)
	b = append(b, n.Code, n.Subcode)
	b = append(b, n.Data[:min(len(n.Data), MaxLen-HeaderLen-2)]...)
	return finish(b, at)
}

var codeNames = map[uint8]string{
	CodeHeader:        "message header error",
	CodeOpen:          "OPEN message error",
	CodeUpdate:        "UPDATE message error",
	CodeHoldTimer:     "hold timer expired",
	CodeStateMachine:  "finite state machine error",
	CodeCease:         "cease",
	CodeRouteRefresh:  "ROUTE-REFRESH message error",
	CodeSendHoldTimer: "send hold timer expired",
}

var subcodeNames = map[[2]uint8]string{
	{CodeHeader, SubcodeNotSynchronized}:               "connection not synchronized",
	{CodeHeader, SubcodeBadLength}:                     "bad message length",
	{CodeHeader, SubcodeBadType}:                       "bad message type",
	{CodeOpen, SubcodeVersion}:                         "unsupported version number",
	{CodeOpen, SubcodeBadPeerAS}:                       "bad peer AS",
	{CodeOpen, SubcodeBadIdentifier}:                   "bad BGP identifier",
	{CodeOpen, SubcodeOptionalParameter}:               "unsupported optional parameter",
	{CodeOpen, SubcodeHoldTime}:                        "unacceptable hold time",
	{CodeOpen, SubcodeUnsupportedCapability}:           "unsupported capability",
	{CodeUpdate, 1}:                                    "malformed attribute list",
	{CodeUpdate, 2}:                                    "unrecognized well-known attribute",
	{CodeUpdate, 3}:                                    "missing well-known attribute",
	{CodeUpdate, 4}:                                    "attribute flags error",
	{CodeUpdate, 5}:                                    "attribute length error",
	{CodeUpdate, 6}:                                    "invalid ORIGIN attribute",
	{CodeUpdate, 8}:                                    "invalid NEXT_HOP attribute",
	{CodeUpdate, 9}:                                    "optional attribute error",
	{CodeUpdate, 10}:                                   "invalid network field",
	{CodeUpdate, 11}:                                   "malformed AS_PATH",
	{CodeStateMachine, SubcodeUnexpectedInOpenSent}:    "unexpected message in OpenSent",
	{CodeStateMachine, SubcodeUnexpectedInOpenConfirm}: "unexpected message in OpenConfirm",
	{CodeStateMachine, SubcodeUnexpectedInEstablished}: "unexpected message in Established",
	{CodeCease, SubcodeMaxPrefixes}:                    "maximum number of prefixes reached",
	{CodeCease, SubcodeAdminShutdown}:                  "administrative shutdown",
	{CodeCease, SubcodeDeconfigured}:                   "peer de-configured",
	{CodeCease, SubcodeAdminReset}:                     "administrative reset",
	{CodeCease, SubcodeConnectionRejected}:             "connection rejected",
	{CodeCease, SubcodeConfigChange}:                   "other configuration change",
	{CodeCease, SubcodeCollision}:                      "connection collision resolution",
	{CodeCease, SubcodeOutOfResources}:                 "out of resources",
	{CodeCease, SubcodeHardReset}:                      "hard reset",
	{CodeCease, SubcodeBFDDown}:                        "BFD down",
}
