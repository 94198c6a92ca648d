// Package streamer is the web server that connections are held to: beside the pages
// that name who answers and who asks, it has a download that never ends and a
// WebSocket that echoes. In the lab it is the image called streamer.
package streamer
