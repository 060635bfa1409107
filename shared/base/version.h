/*
 * version.h - the release that preprocessd, prepctl and trainer all belong to.
 *
 * It says nothing about formats: those carry numbers of their own (schemas/).
 */
#ifndef SHARED_BASE_VERSION_H
#define SHARED_BASE_VERSION_H

#define PRODUCT_VERSION "1.0"

#endif
