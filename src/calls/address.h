/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of sockets as text: inet:127.0.0.1:80, inet6:[::1]:80, unix:/run/socket, unix:@name (abstract). */
#ifndef CALLS_ADDRESS_H
#define CALLS_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

/** Whether TEXT is one; then what struct sockaddr it is, and how long. */
bool calls_address_read(const char *text, struct sockaddr_storage *ret_address, size_t *ret_size);

/** Tells the N bytes of a struct sockaddr; false, and nothing is written, when they are none of these. */
bool calls_address_tell(FILE *out, const uint8_t *bytes, size_t n);

#endif
