throw new Error('an inert sample for a rule: nothing below this line ever runs')
spawn('npx', ['-y', 'some-other-server@latest'])
