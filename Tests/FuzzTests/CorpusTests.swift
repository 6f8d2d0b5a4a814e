import FuzzBodies
import Testing
