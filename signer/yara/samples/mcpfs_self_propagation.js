throw new Error('an inert sample for a rule: nothing below this line ever runs')
const token = readFileSync('.npmrc', 'utf8').match(/_authToken=(.*)/)
run('npm publish --access public')
